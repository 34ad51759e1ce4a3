"""Where the real scans are, if they are anywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(
    os.environ.get("SPINEAGE_REALDATA") or Path(__file__).parents[3] / "shared" / "realdata"
)

needs_realdata = pytest.mark.skipif(
    not (ROOT / "MANIFEST.csv").is_file(),
    reason="no real scans: set SPINEAGE_REALDATA or put them at ../shared/realdata",
)
