"""Small arrays by name, as bytes: what one cell of a grid leaves behind. Nothing in them is unpickled."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def pack_arrays(arrays: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """One compressed file."""
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **dict(arrays))
    return sink.getvalue()


def unpack_arrays(data: bytes) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays that were packed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
