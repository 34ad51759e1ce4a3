"""Damage to parquet: to its bytes, and to what columns there are, of which type, holding what."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.damage import BYTEWISE, Draw

Change = Callable[[pa.Table, str, Draw], pa.Table]


def damaged_parquet(data: bytes, rng: Draw) -> bytes:
    """One or two changes of columns, or one to three of bytes."""
    if rng.random() < 0.5:
        text = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            BYTEWISE[int(rng.integers(len(BYTEWISE)))](text, rng)
        return bytes(text)
    table = pq.read_table(pa.BufferReader(data))
    for _ in range(int(rng.integers(1, 3))):
        if table.num_columns and len(set(table.column_names)) == table.num_columns:
            name = table.column_names[int(rng.integers(table.num_columns))]
            with contextlib.suppress(pa.ArrowException):
                table = CHANGES[int(rng.integers(len(CHANGES)))](table, name, rng)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _with(table: pa.Table, name: str, values: Any, dtype: pa.DataType | None = None) -> pa.Table:
    at = table.column_names.index(name)
    column = values if isinstance(values, pa.ChunkedArray) else pa.array(values, dtype)
    return table.set_column(at, pa.field(name, column.type), column)


def drop(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return table.drop_columns(name)


def rename(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return table.rename_columns([n + "_" if n == name else n for n in table.column_names])


def add(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return table.append_column(f"more_{name}", table[name])


def double(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return table.append_column(name, table[name])


def retype(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    types = (pa.string(), pa.binary(), pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(),
             pa.list_(pa.int64()), pa.timestamp("ns"), pa.decimal128(38, 2))  # fmt: skip
    dtype = types[int(rng.integers(len(types)))]
    try:
        return _with(table, name, table[name].cast(dtype))
    except pa.ArrowException:
        return _with(table, name, [None] * len(table), dtype)


def blank(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return _with(table, name, [None] * len(table), table.schema.field(name).type)


def nest(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return _with(table, name, [{"inner": value} for value in table[name].to_pylist()])


def odd_values(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    dtype = table.schema.field(name).type
    odd: list[Any] = ["", "\0", "x" * 10_000]
    if pa.types.is_floating(dtype):
        odd = [float("nan"), float("inf"), -1e308]
    elif pa.types.is_integer(dtype):
        odd = [-1, 2**62, 0]
    elif pa.types.is_list(dtype):
        odd = [[], [0], [2**40, 3, 3]]
    elif pa.types.is_binary(dtype):
        odd = [b"", b"\xff" * 9]
    value = odd[int(rng.integers(len(odd)))]
    return _with(table, name, [value] * len(table), dtype)


def no_rows(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return table.slice(0, 0)


def many_rows(table: pa.Table, name: str, rng: Draw) -> pa.Table:
    return pa.concat_tables([table] * 3)


CHANGES: tuple[Change, ...] = (
    drop, rename, add, double, retype, retype, blank, nest, odd_values, odd_values, no_rows, many_rows,
)  # fmt: skip
