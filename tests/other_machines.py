"""Settings that make one machine compute as others do: what its libraries would choose there.

`make rounding` runs the tests of cohort, training and segmentation under some of them, and
`tests.benchmarks.demo_settings` the whole demo.
"""

from __future__ import annotations

import sys

OTHER_MACHINES: dict[str, dict[str, str]] = {
    "native": {},
    "nehalem": {
        "NUMBA_CPU_NAME": "generic",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "haswell": {
        "NUMBA_CPU_NAME": "haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "skylake": {"NUMBA_CPU_NAME": "skylake-avx512", "OPENBLAS_CORETYPE": "SkylakeX"},
}

LIBM_WITHOUT_FMA = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX2_Usable,-FMA_Usable"}
"""Other variants of exp, log and pow, as another glibc may have them."""


def main() -> None:
    """The variables of one machine, as a shell takes them."""
    name = sys.argv[1]
    print(" ".join(f"{key}={value}" for key, value in OTHER_MACHINES[name].items()))


if __name__ == "__main__":
    main()
