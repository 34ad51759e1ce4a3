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


def connect(address: str | None = None, *, num_cpus: int | None = None, num_gpus: int = 0) -> None:
    """Join the cluster at `address`, else the one this job was submitted to, else start one here.

    Raises BadStudy when the address does not answer, within seconds.
    """
    if ray.is_initialized():
        return
    _quiet()
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _join(address)
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only, see include_dashboard below
    slots = num_cpus or max(LOCAL_SLOTS, os.cpu_count() or 1)
    ray.init(
        num_cpus=slots, num_gpus=num_gpus, include_dashboard=False,
        configure_logging=True, logging_level=logging.ERROR, log_to_driver=False,
    )  # fmt: skip


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
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
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


def require_gpus(num_gpus: float) -> None:
    """Raise BadStudy when GPUs are asked for and the cluster has fewer."""
    have = ray.cluster_resources().get("GPU", 0.0)
    if num_gpus > have:
        raise BadStudy(
            f"{num_gpus:g} GPUs are asked for and the cluster has {have:g}: "
            "set cluster.gpus_per_worker to 0 to run on CPUs"
        )
