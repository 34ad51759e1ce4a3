"""The few numbers a run ends with; `report/numbers.py` says on whom each is computed."""

from __future__ import annotations

from typing import Any

from spineage.report.numbers import headline_of
from spineage.stages.context import Context
from spineage.stages.report_evidence import gather_tables


def headline(context: Context) -> dict[str, Any]:
    """people, scored, refused, raw/oracle/mean MAE in years, r(SAG, age), r(SAG, planted gap); None
    when unknown.
    """
    return headline_of(gather_tables(context))
