"""Small inputs made after public bug reports, no part of this project: each gives what stands beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineage.io.scans.read import read_scan
from spineage.run.context import Context
from spineage.science.scan.geometry import Volume
from spineage.stages.ingest import stage as ingest
from spineage.study import Inputs, Study

CASES = Path(os.environ.get("SPINEAGE_CASES") or Path(__file__).parents[3] / "shared" / "cases")
EXPECTED: dict[str, Any] = (
    json.loads((CASES / "expected.json").read_text()) if (CASES / "expected.json").is_file() else {}
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not EXPECTED, reason="no cases: set SPINEAGE_CASES or put them at ../shared/cases"
    ),
]


@dataclass
class Ended:
    """Of one case: stations of each scan, their rows and volumes; refusals by code, and what they say."""

    stations: list[int] = field(default_factory=list)
    measures: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    root = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(CASES / "make.py"), str(root)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPINEAGE_KEY", "not a secret, 16 bytes or more")
        workspace = str(tmp_path_factory.mktemp("workspace"))
        study = Study(workspace=workspace, inputs=Inputs(scans=str(root)))
        context = Context(study, say=lambda text: None)
        ingest.run(context)
        return _by_case(context, root)


def _by_case(context: Context, root: Path) -> dict[str, Ended]:
    files, series, scans = (context.read(table) for table in ("files", "series", "scans"))
    files["case"] = [Path(place).relative_to(root).parts[0] for place in files.location]
    case_of = dict(zip(files.series_id, files.case, strict=True))
    series["case"] = series.series_id.map(case_of)
    found = {case: Ended() for case in EXPECTED}
    alone = files[~files.series_id.isin(series.series_id) & ~files.location.str.endswith(".json")]
    for row in (*series.itertuples(), *alone.itertuples()):
        if row.code:
            found[row.case].codes[row.code] += 1
            found[row.case].messages.append(row.message)
    used = series.dropna(subset=["scan_id"]).set_index("scan_id")
    sources = context.read("sources").set_index("scan_id")
    for row in scans.itertuples():
        one = found[used.case[[row.scan_id]].iloc[0]]
        one.stations.append(row.num_stations)
        one.measures.append({**used.loc[[row.scan_id]].iloc[0], **row._asdict()})
        source = {"scan_id": row.scan_id, **sources.loc[row.scan_id]}
        one.volumes.append(read_scan(source))
    return found


def is_alike(found: Volume, like: Volume, slope: float, intercept: float) -> bool:
    """Four fifths of the voxels within 2 % of the range, none outside it by more than 5 %."""
    wanted = like.voxels_RAS * slope + intercept
    if found.voxels_RAS.shape != wanted.shape:
        return False
    low, high = float(wanted.min()), float(wanted.max())
    near = np.abs(found.voxels_RAS - wanted) <= 0.02 * (high - low)
    room = 0.05 * (high - low)
    within = found.voxels_RAS.min() >= low - room and found.voxels_RAS.max() <= high + room
    return bool(near.mean() >= 0.8 and within)


def wrongs(expected: dict[str, Any], found: Ended, ended: dict[str, Ended]) -> list[str]:
    """In what it is not as expected; `expected.json` says how it is to be read."""
    told = []
    if voxels := expected.get("voxels"):
        [like] = ended[voxels["like"]].volumes
        by = voxels.get("slope", 1.0), voxels.get("intercept", 0.0)
        told += ["other voxels" for one in found.volumes if not is_alike(one, like, *by)]
    for name, value in expected.get("measures", {}).items():
        told += [f"{name} {m[name]}" for m in found.measures if abs(m[name] / value - 1) > 0.01]
    if len(found.stations) != expected.get("scans", len(found.stations)):
        told.append(f"{len(found.stations)} scans, not {expected['scans']}")
    if sorted(found.stations) != sorted(expected.get("stations", found.stations)):
        told.append(f"stations {found.stations}, not {expected['stations']}")
    if (refused := expected.get("refused")) is not None:
        left = Counter(found.codes)
        for codes, num in refused.items():
            met = sum(left.pop(code, 0) for code in codes.split("|"))
            if met != num and not (num is None and met):
                told.append(f"{met} {codes}, not {num}")
        told += [f"{num} {code}, not expected" for code, num in left.items()]
    told += [f"refused as {c}" for c in expected.get("not_refused_as", ()) if found.codes[c]]
    said = " ".join(found.messages)
    if not re.search(expected.get("says", ""), said, re.IGNORECASE):
        told.append(f"it does not say {expected['says']!r} but {said!r}")
    return told


@pytest.mark.parametrize("case", EXPECTED)
def test_a_case_gives_what_stands_beside_it(case: str, ended: dict[str, Ended]) -> None:
    options = EXPECTED[case] if isinstance(EXPECTED[case], list) else [EXPECTED[case]]
    answers = [wrongs(one, ended[case], ended) for one in options if one is not None]
    assert not answers or not all(answers), answers
