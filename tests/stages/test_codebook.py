"""The codebook as a user sees it: `spineage show conditions --codebook`."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from spineage.cli import app


def test_show_conditions_codebook_lists_the_215_features() -> None:
    result = CliRunner().invoke(app, ["show", "conditions", "--codebook", "--json"])
    entries = json.loads(result.stdout.splitlines()[0])
    assert [e["number"] for e in entries] == list(range(1, 216))
    assert len({e["feature"] for e in entries}) == 215
    assert all(e["words"] for e in entries)
    codes = {e["finding"]: e["snomed"] for e in entries}
    assert codes["scoliosis"] == "298382003"
    assert codes["modic"] is None
    needed = """disc_bulge disc_protrusion disc_extrusion disc_desiccation disc_height_loss osteophytes
        central_stenosis foraminal_stenosis facet_arthropathy fracture ligamentum_flavum spondylolisthesis
        modic schmorl_node scoliosis kyphosis haemangioma cord_signal_change surgical_fusion laminectomy"""
    assert set(needed.split()) <= set(codes)


def test_it_is_a_table_for_people_too_and_no_other_table_has_one() -> None:
    shown = CliRunner().invoke(app, ["show", "conditions", "--codebook"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "215 features" in shown.stdout
    assert "vacuum_phenomenon, lumbar" in shown.stdout
    refused = CliRunner().invoke(app, ["show", "cohort", "--codebook"])
    assert refused.exit_code == 2
