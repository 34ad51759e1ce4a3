"""Rows and columns of a data frame, typed: pandas' own types are unions of everything a cell may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row as a named tuple."""
    return iter(frame.itertuples(index=False))


def column_of(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column of numbers; what is unknown is NaN."""
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def dicts_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Each row as a dict by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
