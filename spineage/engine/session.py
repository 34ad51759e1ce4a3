"""One Ray session: the cluster named, the job's own, or one started here."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import ray
import ray.exceptions
import ray.util

from spineage.engine import room
from spineage.engine.quiet import quieten
from spineage.errors import BadStudy
from spineage.uris import strip_logins, without_logins

_SLOW: Final = re.compile(
    r"(?i)timed out|failed to start|may not have started|failed to get node info"
)
REFUSALS: Final = (ConnectionError, RuntimeError, ValueError)
ANSWERS_WITHIN_S: Final = 5.0
ALIVE: Final = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""What a head is asked before it is joined."""
HEAD_LOOK_S: Final = 3.0
HEAD_MISSED: Final = 3
HEAD_IS_LOST: Final = (
    b"spineage: the head of the Ray cluster does not answer; if it does not come back in a minute this run "
    b"ends with code 1; what is done is kept, run again to go on\n"
)
TOKEN_REMEDY: Final = (
    "put the cluster's into ~/.ray/auth_token (mode 0600) or RAY_AUTH_TOKEN_PATH, and set "
    "RAY_AUTH_MODE=token"
)
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1", "[::1]")
_growing = [False]
_rooms: list[Path] = []
"""The folder of the session started here, while it runs."""


def connect(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    gpus_needed: float = 0.0,
    grows: bool = False,
) -> None:
    """Join the cluster at `address`, else the one this job was submitted to, else start one here.

    num_cpus: of one started here; by default the cores of this machine. grows: the cluster gets nodes when
    they are asked for. Raises BadStudy within seconds when the address does not answer, or has fewer GPUs
    than needed and does not grow.
    """
    if not ray.is_initialized():
        quieten()
        address = address or os.environ.get("RAY_ADDRESS")
        with _keeping_sigterm():
            if address:
                _join(address)
            else:
                _start(num_cpus, gpus_needed)
    _growing[0] = grows and is_joined()
    if not may_grow():
        _require_gpus(gpus_needed, ray.cluster_resources().get("GPU", 0.0))


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray answers SIGTERM with frames of its own code; who called us may have a better answer."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _start(num_cpus: int | None, gpus_needed: float) -> None:
    """A session on this machine, in a folder of its own that nobody else can enter.

    Ray listens on all of its addresses: only who has the token that Ray keeps in the user's home gets in.
    """
    require_gpus_here(gpus_needed)
    before = os.umask(0o077)
    try:
        room.close_token()
        folder = room.open_room()
        _rooms.append(folder)
        with (
            _one_sentence_if_slow(),
            room.only_what_is_needed(folder),
            _away_from_here(folder.parent),
        ):
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"worker_process_setup_hook": room.SETTLE},
                _temp_dir=str(folder),
            )
    finally:
        os.umask(before)


@contextlib.contextmanager
def _one_sentence_if_slow() -> Iterator[None]:
    """Ray says that a node took too long to start with exceptions of any kind, a plain Exception too."""
    started = time.monotonic()
    try:
        yield
    except Exception as error:
        if not (isinstance(error, TimeoutError) or _SLOW.search(str(error))):
            raise
        ray.shutdown()
        raise BadStudy(
            f"Ray did not start on this machine in {time.monotonic() - started:.0f} s: the machine is busy, "
            "or its ports are closed; run again, or name a cluster with --ray"
        ) from None


@contextlib.contextmanager
def _away_from_here(folder: str | Path) -> Iterator[None]:
    """Ray lets every worker import from the folder that its driver starts in: not from one that this process
    does not import from itself, such as an archive of somebody's files that it was called in."""
    here = os.getcwd()
    if "" in sys.path or here in sys.path:
        yield
        return
    with contextlib.chdir(folder):
        yield


def _join(address: str) -> None:
    _require_answer(address)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="spineage-") as folder, _away_from_here(folder):
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"worker_process_setup_hook": room.SETTLE},
            )
    except ray.exceptions.AuthenticationError as error:
        raise BadStudy(
            f"the Ray cluster at {strip_logins(address)} does not take this token "
            f"({without_logins(' '.join(str(error).split()))[:100]}): {TOKEN_REMEDY}"
        ) from None
    except Exception as error:
        if not (isinstance(error, REFUSALS) or _SLOW.search(str(error))):
            raise
        sentence = without_logins(" ".join(str(error).split()))[:200]
        raise BadStudy(
            f"cannot join the Ray cluster at {strip_logins(address)} "
            f"({time.monotonic() - started:.0f} s): {sentence}"
        ) from None
    threading.Thread(target=_watch_head, daemon=True).start()


def _watch_head() -> None:
    """Say when the head does not answer any more: Ray waits for it for a minute, then ends the process in
    silence."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    missed = 0
    while ray.is_initialized():
        time.sleep(HEAD_LOOK_S)
        try:
            socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN_S).close()
            missed = 0
        except OSError:
            missed += 1
        if missed == HEAD_MISSED and ray.is_initialized():
            with contextlib.suppress(OSError, ValueError):
                os.write(sys.stderr.fileno(), HEAD_IS_LOST)


def _require_answer(address: str) -> None:
    """Raise BadStudy when no Ray listens there: Ray itself would wait for it without end or word.

    Ray goes to this node's own address when it is told a loopback one, so that is where it must listen.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # `auto` and the like: Ray looks the address up, and says when there is none
    if host in LOOPBACK and not address.startswith("ray://"):
        host = ray.util.get_node_ip_address()
    start = "start one with `ray start --head`, or leave cluster.ray empty to run here"
    named = strip_logins(address)
    try:
        socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN_S).close()
    except OSError as error:
        where = "" if host in address else f" when asked as {host}:{port}, as other nodes would"
        raise BadStudy(f"no Ray cluster answers at {named}{where} ({error}): {start}") from None
    if os.environ.get("RAY_USE_TLS", "0") in ("", "0") and not _speaks_grpc(f"{host}:{port}"):
        raise BadStudy(
            f"something answers at {named} that is no Ray cluster; is it the dashboard's port? Ray's own is "
            f"6379 unless `ray start` was told another: {start}"
        )
    if os.environ.get("RAY_USE_TLS", "0") in ("", "0") and not address.startswith("ray://"):
        _require_token_taken(f"{host}:{port}", named)


def _require_token_taken(address: str, named: str) -> None:
    """Ray itself asks for twenty seconds, and then says that it failed to connect."""
    token = _token() if os.environ.get("RAY_AUTH_MODE") != "disabled" else ""
    sent = [("authorization", f"Bearer {token}")] if token else None
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    try:
        channel.unary_unary(ALIVE)(b"", timeout=ANSWERS_WITHIN_S, metadata=sent)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            what = "does not take this token" if token else "asks for a token"
            raise BadStudy(f"the Ray cluster at {named} {what}: {TOKEN_REMEDY}") from None
    finally:
        channel.close()


def _token() -> str:
    """Where Ray looks for it, in its order."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _speaks_grpc(address: str) -> bool:
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])  # as Ray's
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWERS_WITHIN_S)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


def disconnect() -> None:
    """Leave the session; one started here ends."""
    if ray.is_initialized():
        ray.shutdown()
    while _rooms:
        room.close_room(_rooms.pop())


def may_grow() -> bool:
    """Whether nodes come when work asks for them: what is there now is not all."""
    return _growing[0]


def is_submitted() -> bool:
    """Whether this process was given a cluster by who started it, as a submitted job is."""
    return bool(os.environ.get("RAY_ADDRESS"))


def is_joined() -> bool:
    """Whether the session is a cluster that others started, of nodes that may be other machines."""
    return ray.is_initialized() and not _rooms


def resources() -> dict[str, float]:
    """What the cluster has: CPU, GPU, nodes, and bytes of its object stores."""
    found = ray.cluster_resources()
    alive = sum(1 for node in ray.nodes() if node["Alive"])
    store_bytes = found.get("object_store_memory", 0.0)
    has = {kind: found.get(kind, 0.0) for kind in ("CPU", "GPU")}
    return {**has, "nodes": float(alive), "object_store_bytes": store_bytes}


def require_gpus_here(needed: float) -> None:
    """Raise BadStudy when this machine has fewer GPUs than a session started here would be asked for."""
    if needed:
        import torch  # takes seconds

        _require_gpus(needed, torch.cuda.device_count())


def _require_gpus(needed: float, have: float) -> None:
    if needed > have:
        raise BadStudy(
            f"{needed:g} GPUs are asked for and {have:g} are there: "
            "set cluster.gpus_per_worker to 0 to run on CPUs"
        )
