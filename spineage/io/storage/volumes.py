"""Arrays as table cells: zstd bytes beside their shape. Letters: R, A, S voxel axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from spineage.science.scan.geometry import Volume

_CODEC = pa.Codec("zstd", compression_level=3)


def pack(array: NDArray[np.generic]) -> bytes:
    """Compress an array's bytes; dtype and shape are kept by the reader."""
    return _CODEC.compress(np.ascontiguousarray(array).tobytes(), asbytes=True)


def unpack(data: bytes, dtype: DTypeLike, shape: Any) -> NDArray[Any]:
    """The array again, read-only."""
    shape = tuple(int(n) for n in shape)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(_CODEC.decompress(data, size), dtype).reshape(shape)


def volume_to_cells(volume: Volume, name: str) -> dict[str, Any]:
    """`<name>` (raw bytes), `<name>_dtype`, `shape`, `affine`: a volume on its way between two steps."""
    return {
        name: np.ascontiguousarray(volume.voxels_RAS).tobytes(),
        f"{name}_dtype": volume.voxels_RAS.dtype.str,
        **place_to_cells(volume),
    }


def volume_from_cells(row: dict[str, Any], name: str) -> Volume:
    """The inverse of `volume_to_cells`; voxels are read-only."""
    shape, affine = place_from_cells(row)
    voxels = np.frombuffer(row[name], np.dtype(row[f"{name}_dtype"])).reshape(shape)
    return Volume(voxels, affine)


def place_to_cells(volume: Volume) -> dict[str, Any]:
    """The `shape` and `affine` columns."""
    return {
        "shape": [int(n) for n in volume.voxels_RAS.shape],
        "affine": [float(x) for x in volume.affine_RAS.ravel()],
    }


def place_from_cells(row: dict[str, Any]) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of a row."""
    r, a, s = (int(n) for n in row["shape"])
    return (r, a, s), np.array(row["affine"], np.float64).reshape(4, 4)


def mask_from_row(row: dict[str, Any]) -> Volume:
    """A MASKS row's labels in the levels schema."""
    shape, affine = place_from_cells(row)
    return Volume(unpack(row["levels_zstd"], np.uint8, shape), affine)


def tensor_from_row(row: dict[str, Any]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """A TENSORS row's voxels and levels, both [R, A, S]."""
    return (
        unpack(row["voxels_zstd"], np.float16, row["shape"]),
        unpack(row["levels_zstd"], np.uint8, row["shape"]),
    )
