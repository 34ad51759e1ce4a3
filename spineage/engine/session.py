"""One Ray session: the cluster named, the job's own, or one started here."""

from __future__ import annotations

import logging
import os
import socket
import warnings

import ray

from spineage.errors import BadStudy

LOCAL_SLOTS = 8
"""Logical CPUs of a session started here. More than a laptop's cores on purpose: the actors of a streaming
chain mostly wait for each other, and a chain that does not fit whole would wait for ever."""


def connect(
    address: str | None = None, *, num_cpus: int | None = None, gpus_needed: float = 0.0
) -> None:
    """Join the cluster at `address`, else the one this job was submitted to, else start one here.

    Raises BadStudy within seconds when the address does not answer, or has fewer GPUs than needed.
    """
    if not ray.is_initialized():
        _quiet()
        address = address or os.environ.get("RAY_ADDRESS")
        if address:
            _join(address)
        else:
            _start(num_cpus or max(LOCAL_SLOTS, os.cpu_count() or 1), gpus_needed)
    _require_gpus(gpus_needed, ray.cluster_resources().get("GPU", 0.0))


def _start(slots: int, gpus_needed: float) -> None:
    """A session on this machine.

    Ray listens on all of its addresses: only who has the token that Ray keeps in the user's home gets in.
    """
    if gpus_needed:
        import torch  # takes seconds: most verbs need neither it nor a GPU

        _require_gpus(gpus_needed, torch.cuda.device_count())
    ray.init(
        num_cpus=slots,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )


def _join(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise BadStudy(
                f"no Ray cluster answers at {address} ({error}): start one with `ray start --head`, "
                "or leave cluster.ray empty to run here"
            ) from None
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        sentence = " ".join(str(error).split())[:200]
        raise BadStudy(f"cannot join the Ray cluster at {address}: {sentence}") from None


def _quiet() -> None:
    for name in ("data", "data._internal.execution.streaming_executor", "train", "tune"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # the stages say what happens
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")


def disconnect() -> None:
    """Leave the session; one started here ends."""
    if ray.is_initialized():
        ray.shutdown()


def resources() -> dict[str, float]:
    """What the cluster has: CPU, GPU, nodes."""
    found = ray.cluster_resources()
    alive = sum(1 for node in ray.nodes() if node["Alive"])
    return {"CPU": found.get("CPU", 0.0), "GPU": found.get("GPU", 0.0), "nodes": float(alive)}


def _require_gpus(needed: float, have: float) -> None:
    if needed > have:
        raise BadStudy(
            f"{needed:g} GPUs are asked for and {have:g} are there: "
            "set cluster.gpus_per_worker to 0 to run on CPUs"
        )
