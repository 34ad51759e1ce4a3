"""Every value of a model bundle, its type and its range: a digest proves who wrote it last, not that it is
right."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    model_validator,
)

from spineage.errors import BadStudy

REMEDY = "fetch the bundle again, or calibrate again"
MAX_PEOPLE = 10_000_000

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Mark = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[\w .,+-]{1,60}$")]
Age = Annotated[float, Field(ge=0, le=150)]
Years = Annotated[float, Field(ge=-1000, le=1000)]
Width = Annotated[float, Field(ge=0, le=1000)]
Small = Annotated[float, Field(ge=-1e6, le=1e6)]
People = Annotated[int, Field(ge=0, le=MAX_PEOPLE)]
Channels = Annotated[int, Field(ge=1, le=4096)]
Pool = Annotated[int, Field(ge=1, le=64)]
Voxels = Annotated[int, Field(ge=1, le=2048)]
Millimetres = Annotated[float, Field(ge=0.05, le=50)]
Domain = Literal["phantom", "mixed", "real"]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class Network(_Part):
    """The architecture: what `SpineAgeNet` is built of."""

    channels: Annotated[list[Channels], Field(min_length=1, max_length=12)]
    pools: list[tuple[Pool, Pool, Pool]]
    dropout: Annotated[float, Field(ge=0, lt=1)]


class Prepared(_Part):
    """The study's `prepare` section when it was trained."""

    shape: tuple[Voxels, Voxels, Voxels]
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    normalise: Literal["csf", "robust"]


class Segmenter(_Part):
    """Which network drew the spine, and how."""

    digest: Digest
    labels: Annotated[dict[Word, Word], Field(max_length=256)]
    domain: Literal["phantom", "human"]
    schema_: Annotated[Literal["semantic", "levels", "landmarks"], Field(alias="schema")] = (
        "semantic"
    )
    mode: Literal["exact", "fast"] = "exact"
    mirror: bool = False


class Calibration(_Part):
    """`AgeBias`."""

    coefficients: Annotated[list[Small], Field(min_length=1, max_length=4)]
    covariance: Annotated[list[list[Small]], Field(min_length=1, max_length=4)]
    centre_years: Age
    num_people: People
    age_low_years: Age
    age_high_years: Age

    @model_validator(mode="after")
    def fits(self) -> Calibration:
        """A covariance matrix of the coefficients, and a range."""
        size = len(self.coefficients)
        if any(len(row) != size for row in self.covariance) or len(self.covariance) != size:
            raise ValueError(f"covariance must be {size} x {size}, as there are coefficients")
        matrix = np.array(self.covariance)
        if not np.allclose(matrix, matrix.T) or (np.diag(matrix) < 0).any():
            raise ValueError("covariance must be symmetric, with no negative variance")
        if not self.age_low_years <= self.age_high_years:
            raise ValueError("age_low_years must not exceed age_high_years")
        return self


class Conformal(_Part):
    """`Intervals`."""

    edges_years: Annotated[list[Years], Field(max_length=1000)]
    half_width_years: Annotated[list[Width], Field(min_length=1, max_length=1001)]
    num_people: list[People]
    coverage: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def fits(self) -> Conformal:
        """One width and one count for each bin; edges that rise."""
        bins = len(self.edges_years) + 1
        if len(self.half_width_years) != bins or len(self.num_people) != bins:
            raise ValueError(f"{bins} bins need as many half_width_years and num_people")
        if sorted(self.edges_years) != self.edges_years:
            raise ValueError("edges_years must rise")
        return self


class SelfTest(_Part):
    """What the network said where it was published."""

    expected_years: Years
    tolerance_years: Width


class Manifest(_Part):
    """bundle.json."""

    kind: Literal["spineage-bundle"]
    schema_: Annotated[Literal[1], Field(alias="schema")]
    network: Network
    region: Literal["whole", "cervical", "thoracic", "lumbar"]
    prepare: Prepared
    segmenter: Segmenter
    domain: Domain
    train_age_years: tuple[Age, Age]
    cohort: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    calibration: Calibration
    intervals: Conformal
    distance_limit: Annotated[float, Field(gt=0, le=1e12)]
    self_test: SelfTest
    files: dict[Word, Digest]

    @model_validator(mode="after")
    def fits(self) -> Manifest:
        """A range of ages, and a network that this shape can pass through."""
        if not self.train_age_years[0] <= self.train_age_years[1]:
            raise ValueError("train_age_years must be the lowest and the highest age")
        if len(self.network.pools) != len(self.network.channels):
            raise ValueError("network.pools must be as many as network.channels")
        pooled = np.prod(np.array(self.network.pools, float), axis=0)
        if (pooled > np.array(self.prepare.shape)).any():
            raise ValueError("network.pools leave nothing of prepare.shape")
        return self


class Roles(RootModel[dict[Mark, Literal["train", "validate", "calibrate", "test"]]]):
    """roles.json."""

    model_config = ConfigDict(strict=True)


def check_manifest(content: bytes) -> None:
    """Raise BadStudy, naming the part, for a bundle.json that `bundle_files` would not write."""
    try:
        Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _wrong("bundle.json", error) from None


def check_roles(content: bytes) -> None:
    """Raise BadStudy for roles that are none."""
    try:
        Roles.model_validate_json(content)
    except ValidationError as error:
        raise _wrong("roles.json", error) from None


def check_features(content: bytes, num_channels: int) -> dict[str, np.ndarray[Any, Any]]:
    """Mean [F] and precision [F, F] of the network's features: finite and symmetric, or BadStudy."""
    name = "familiarity.safetensors"
    try:
        found = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError):
        raise _odd(name, "it is not safetensors") from None
    mean, precision = found.get("mean"), found.get("precision")
    if mean is None or precision is None:
        raise _odd(name, "it lacks mean or precision")
    if mean.shape != (num_channels,) or precision.shape != (num_channels, num_channels):
        raise _odd(name, f"mean and precision are not of the network's {num_channels} features")
    if mean.dtype != np.float64 or precision.dtype != np.float64:
        raise _odd(name, "mean and precision are not 64-bit numbers")
    if not (np.isfinite(mean).all() and np.isfinite(precision).all()):
        raise _odd(name, "mean or precision is not a number")
    if not np.allclose(precision, precision.T) or (np.diag(precision) < 0).any():
        raise _odd(name, "precision is not symmetric, or negative")
    return found


def check_weights(content: bytes) -> None:
    """Raise BadStudy for weights that are not safetensors of numbers; their shapes are `load_network`'s."""
    name = "weights.safetensors"
    try:
        found = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError):
        raise _odd(name, "it is not safetensors") from None
    if not all(np.isfinite(tensor).all() for tensor in found.values()):
        raise _odd(name, "a weight is NaN or infinite")


def _wrong(name: str, error: ValidationError) -> BadStudy:
    """The first thing that is wrong, with its place; never the value, which may be anything."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(key)[:40] for key in first["loc"])
    reason = "".join(
        c if c.isprintable() else "?" for c in first["msg"].removeprefix("Value error, ")
    )
    shown = "".join(c if c.isprintable() else "?" for c in place)
    return _odd(name, f"{shown}: {reason[:200]}" if place else reason[:200])


def _odd(name: str, why: str) -> BadStudy:
    return BadStudy(f"{name} of the model bundle is wrong, whoever signed it ({why}): {REMEDY}")
