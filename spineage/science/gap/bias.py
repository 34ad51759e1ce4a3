"""The age-bias correction: how wrong the network tends to be at each age, and how sure we are of it.

y = chronological age, p = raw prediction, g = p - y. A regression pulls towards the mean age: the young
are predicted too old and the old too young. The bias is a polynomial in age fitted to g, and is taken
off: p' = p - bias(y). Degree 1 is Beheshti et al. 2019 (doi:10.1016/j.nicl.2019.102063) and de Lange &
Cole 2020 (doi:10.1016/j.nicl.2020.102229), which are the same formula; after it the corrected gap of the
people it was fitted on is uncorrelated with age, which is the constraint of Treder et al. 2021
(doi:10.3389/fpsyt.2021.615754) imposed afterwards. We deviate from Beheshti et al. in one thing: the
people are held out of training, because fitted on training people the correction is close to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.errors import BadStudy

Floats = npt.NDArray[np.float64]

MIN_PEOPLE_FOR_DEGREE = (2, 8, 30, 60)
"""People needed for degree 0, 1, 2, 3. At the ends of the age range the variance of a fitted polynomial
of degree d is about (d + 1)^2 / n of the residual variance (the Christoffel function of evenly spread
ages): these minima keep the standard error there under about 0.7 residual SD for an offset or a line,
0.55 for a curve."""


@dataclass(frozen=True)
class AgeBias:
    """The mean of predicted minus chronological age at each age: a polynomial around `centre_years`.

    coefficients: of (age - centre)^0, ^1, ...; years, years per year, ...
    covariance: of the coefficients, (degree + 1) x (degree + 1), ordinary least squares.
    The age range is that of the people it was fitted on: outside it the polynomial is a guess.
    """

    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    centre_years: float
    num_people: int
    age_low_years: float
    age_high_years: float

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1

    def bias_years(self, age_years: npt.ArrayLike) -> Floats:
        """Expected predicted minus chronological age."""
        return np.asarray(self._powers(age_years) @ np.asarray(self.coefficients))

    def se_years(self, age_years: npt.ArrayLike) -> Floats:
        """Standard error of the correction itself at this age: it is shared by all people of that age."""
        powers = self._powers(age_years)
        variance = np.einsum("...i,ij,...j->...", powers, np.asarray(self.covariance), powers)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def correct(self, predicted_years: npt.ArrayLike, age_years: npt.ArrayLike) -> Floats:
        """Spine age: the prediction with the bias expected at this age taken off. Uses the age."""
        return np.asarray(predicted_years, dtype=np.float64) - self.bias_years(age_years)

    def covers(self, age_years: float) -> bool:
        """Whether this age lies within the ages it was fitted on."""
        return self.age_low_years <= age_years <= self.age_high_years

    def _powers(self, age_years: npt.ArrayLike) -> Floats:
        return _powers(np.asarray(age_years, dtype=np.float64) - self.centre_years, self.degree)


def one_scan_a_person(predictions: pd.DataFrame) -> pd.DataFrame:
    """The scan with the lowest scan id of each person, in order of that id.

    Repeats of one person are not exchangeable with other people, which both the covariance and the
    conformal intervals assume. Scan ids are keyed hashes, so the choice is arbitrary and knows nothing of
    the outcome.
    """
    return predictions.sort_values("scan_id").drop_duplicates("person_id").reset_index(drop=True)


def calibration_people(predictions: pd.DataFrame) -> pd.DataFrame:
    """Normal people of the calibration split, one scan each: who may fit corrections and intervals.

    Raises BadStudy when there are too few, or when one of them also appears in another split.
    """
    is_ours = (predictions["split"] == "calibrate") & (predictions["status"] == "normal")
    held_out = one_scan_a_person(predictions[is_ours])
    elsewhere = set(predictions.loc[predictions["split"] != "calibrate", "person_id"])
    num_shared = sum(person in elsewhere for person in held_out["person_id"])
    if num_shared:
        raise BadStudy(
            f"{num_shared} people are both in the calibration split and in another one: a correction fitted "
            "on people the network has seen corrects almost nothing; splits go by person: run cohort again"
        )
    if len(held_out) < MIN_PEOPLE_FOR_DEGREE[0]:
        raise BadStudy(
            f"{len(held_out)} normal people in the calibration split, at least {MIN_PEOPLE_FOR_DEGREE[0]} "
            "are needed: raise cohort.calibrate or add people"
        )
    return held_out


def fit_age_bias(held_out: pd.DataFrame, *, max_degree: int) -> AgeBias:
    """Fit the bias on held-out people; the degree is chosen by cross-validation among them.

    held_out: rows of the predictions table, all of split `calibrate`, one a person (`calibration_people`);
    anything else is a bug of the caller, since a correction fitted on training people is worthless.
    """
    assert set(held_out["split"]) == {"calibrate"}, (
        "the correction is fitted on the calibration split only"
    )
    assert not held_out["person_id"].duplicated().any(), "one scan a person"
    age, gap = _age_and_gap(held_out)
    degree = choose_degree(age, gap, max_degree=max_degree)
    centre = float(age.mean())
    powers = _powers(age - centre, degree)
    coefficients, *_ = np.linalg.lstsq(powers, gap, rcond=None)
    residual = gap - powers @ coefficients
    freedom = len(age) - degree - 1
    covariance = float(residual @ residual) / freedom * np.linalg.inv(powers.T @ powers)
    return AgeBias(
        coefficients=tuple(float(c) for c in coefficients),
        covariance=tuple(tuple(float(v) for v in row) for row in covariance),
        centre_years=centre,
        num_people=len(age),
        age_low_years=float(age.min()),
        age_high_years=float(age.max()),
    )


def choose_degree(age_years: Floats, gap_years: Floats, *, max_degree: int) -> int:
    """The lowest degree that cross-validation cannot tell from the best one.

    Squared errors of leave-one-person-out (exact, by the hat matrix). A higher degree must beat a lower
    one by more than one standard error of their paired difference. With enough people for a line, an
    offset alone is not a candidate: a regression on imperfect evidence always pulls towards the mean, so
    a slope is expected before looking. `MIN_PEOPLE_FOR_DEGREE` caps the degree.
    """
    ages = len(np.unique(age_years))
    allowed = [
        d
        for d, people in enumerate(MIN_PEOPLE_FOR_DEGREE)
        if len(age_years) >= people and d < ages and d <= max_degree
    ]
    candidates = [d for d in allowed if d >= 1] or [0]
    errors = {d: _left_out_errors(age_years, gap_years, d) ** 2 for d in candidates}
    best = min(candidates, key=lambda d: float(errors[d].mean()))
    for degree in candidates:
        difference = errors[degree] - errors[best]
        standard_error = difference.std(ddof=1) / np.sqrt(len(difference))
        if degree == best or difference.mean() <= standard_error:
            return degree
    raise AssertionError("the best degree is always a candidate")


def _left_out_errors(age_years: Floats, gap_years: Floats, degree: int) -> Floats:
    """Error at each person of the polynomial fitted to all others: e_i / (1 - h_ii) (Allen 1974, PRESS)."""
    orthogonal, _ = np.linalg.qr(_powers(age_years - age_years.mean(), degree))
    residual = gap_years - orthogonal @ (orthogonal.T @ gap_years)
    leverage = np.einsum("ij,ij->i", orthogonal, orthogonal)
    return np.asarray(residual / np.maximum(1.0 - leverage, 1e-9))


def _age_and_gap(people: pd.DataFrame) -> tuple[Floats, Floats]:
    age = people["age_years"].to_numpy(dtype=np.float64)
    return age, people["predicted_years"].to_numpy(dtype=np.float64) - age


def _powers(x: Floats, degree: int) -> Floats:
    """[..., degree + 1]: x^0, x^1, ..."""
    return np.stack([x**k for k in range(degree + 1)], axis=-1)
