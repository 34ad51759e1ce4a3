"""The same bits on every machine: the processor that a cohort's processes pretend to run on.

Sums of floating point numbers round differently in another order, and libraries choose the order by the
processor they find. UMAP's descent makes another map of a difference in the last bit. So the processes that
fit a cohort are started with the arithmetic that the study names (`cohort.arithmetic`):

- `x86-64-v3`: numba compiles for a Haswell (2013), OpenBLAS takes its Haswell kernels, numpy leaves AVX-512
  alone. All servers of the last ten years can do that.
- `armv8`: numba compiles for its generic processor, OpenBLAS takes its ARMv8 kernels, numpy its NEON.
  Nobody has run it yet; on macOS numpy may use Accelerate, which nothing pins.

Every library runs on one thread. What cannot be pinned is the system's libm (exp, log, pow), whose last bit
may differ between versions of glibc: it is recorded with each cohort, and its effect measured by
`tests.benchmarks.cohort_bits`, as is what the pinning costs.
"""

from __future__ import annotations

import importlib
import platform
from typing import Any

from spineage.errors import BadStudy

MACHINES = {"x86-64-v3": ("x86_64", "AMD64"), "armv8": ("aarch64", "arm64")}
NEEDED = ("AVX2", "FMA3")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB")}
NUMBA = {"x86-64-v3": ("haswell", "+avx2,+fma"), "armv8": ("generic", "")}
OPENBLAS = {"x86-64-v3": "Haswell", "armv8": "ARMV8"}


def pinned_environment(arithmetic: str) -> dict[str, str]:
    """What a process must be started with, before it imports numpy or numba."""
    cpu, features = NUMBA[arithmetic]
    return {
        **ONE_THREAD,
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_DISABLE_INTEL_SVML": "1",
        "OPENBLAS_CORETYPE": OPENBLAS[arithmetic],
        "OPENBLAS_L2_SIZE": "256",
        "NPY_DISABLE_CPU_FEATURES": " ".join(_beyond(arithmetic)),
    }


def arithmetic_in_use(arithmetic: str) -> dict[str, Any]:
    """What this process computes with, to be recorded.

    Raises BadStudy when it is not what the study names, because of the processor, or of how it was started.
    """
    _require_processor(arithmetic)
    import numba
    from threadpoolctl import threadpool_info

    config: Any = numba.config
    features = _numpy_features()
    found = {
        "numba": (config.CPU_NAME, config.CPU_FEATURES),
        "openblas": sorted(
            {str(lib["architecture"]) for lib in threadpool_info() if "architecture" in lib}
        ),
        "numpy": [name for name in _beyond(arithmetic) if features.get(name)],
    }
    wanted: dict[str, Any] = {"numba": NUMBA[arithmetic], "numpy": []}
    if found["openblas"]:
        wanted["openblas"] = [OPENBLAS[arithmetic]]
    for name, value in wanted.items():
        if [str(one).lower() for one in found[name]] != [str(one).lower() for one in value]:
            raise BadStudy(
                f"a process that fits the cohort has {name} compute with {found[name]}, expected {value}: it "
                "was not started with its own environment; restart the Ray cluster and run again"
            )
    return {"arithmetic": arithmetic, "libc": " ".join(platform.libc_ver())}


def _require_processor(arithmetic: str) -> None:
    machine = platform.machine()
    if machine not in MACHINES[arithmetic]:
        known = [name for name, machines in MACHINES.items() if machine in machines]
        raise BadStudy(
            f"cohort.arithmetic is {arithmetic}, which this {machine} does not have: fit the cohort on "
            f"another machine, or set it to {' or '.join(known) or 'none'}"
        )
    missing = [name for name in NEEDED if not _numpy_features().get(name)]
    if arithmetic == "x86-64-v3" and missing:
        raise BadStudy(
            f"this machine's processor lacks {' and '.join(missing)}, which cohort.arithmetic x86-64-v3 "
            "needs: fit the cohort on a machine of the last ten years"
        )


def _numpy_features() -> dict[str, bool]:
    return dict(_numpy_core().__cpu_features__)


def _beyond(arithmetic: str) -> list[str]:
    """What numpy would choose by the processor, beyond what the arithmetic has."""
    chosen = _numpy_core().__cpu_dispatch__
    if arithmetic == "armv8":
        return list(chosen)
    return [name for name in chosen if "AVX512" in name or name == "X86_V4"]


def _numpy_core() -> Any:
    """Where numpy says what it found and chose; it has no public name for it."""
    return importlib.import_module("numpy._core._multiarray_umath")
