"""Rows that belong together, brought together from many parquet parts, on however many machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from spineage.engine.quiet import in_a_sentence, plain_bad_study, quieten_data

Answer = dict[str, Any]


def each_group(
    function: Callable[[int, pa.Table], Answer],
    parts: Sequence[str],
    *,
    by: str,
    num_groups: int,
    filesystem: Any = None,
) -> Iterator[Answer]:
    """Call an importable function with a group's number and its rows; small JSON answers come as they finish.

    Rows of equal `by` (an integer column) are in one group, `by` modulo `num_groups`; their order is not
    kept. Groups without rows are not called. The driver holds names of parts and answers, never rows.
    """
    quieten_data()
    ray.data.DataContext.get_current().max_errored_blocks = (
        0  # a run of rows before may have set it
    )
    rows = ray.data.read_parquet(list(parts), filesystem=filesystem)
    numbered = rows.map_batches(partial(_numbered, by, num_groups), batch_format="pyarrow")
    num_partitions = min(num_groups, int(2 * max(1.0, ray.cluster_resources().get("CPU", 1.0))))
    answers = numbered.groupby("group_number", num_partitions=num_partitions).map_groups(
        partial(_called, function), batch_format="pyarrow"
    )
    with plain_bad_study():
        for row in answers.iter_rows():
            yield json.loads(row["answer"])


def _numbered(by: str, num_groups: int, rows: pa.Table) -> pa.Table:
    numbers = pa.array(rows[by].to_numpy() % num_groups, pa.int64())
    return rows.append_column("group_number", numbers)


def _called(function: Callable[[int, pa.Table], Answer], rows: pa.Table) -> pa.Table:
    number = int(rows["group_number"][0].as_py())
    with in_a_sentence("ingest"):
        answer = function(number, rows.drop_columns("group_number"))
    return pa.table({"answer": [json.dumps(answer)]})
