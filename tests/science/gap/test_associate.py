"""The association models against independent references and against populations of known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats

from spineage.science.cohort.conditions import Feature
from spineage.science.gap.associate import (
    design_of,
    estimate_all,
    estimate_effect,
    natural_spline,
)
from spineage.science.gap.exposures import Exposure, of_conditions, of_lifestyle

Floats = npt.NDArray[np.float64]


def people_of(num: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "person_id": [f"p{i:04d}" for i in range(num)],
            "age_years": rng.uniform(25, 84, num),
            "sex": rng.choice(["F", "M"], num),
            "site": rng.choice(["hill", "harbour", "meadow"], num),
            "status": rng.choice(["normal", "not_normal"], num),
            "sag_years": rng.normal(0, 3, num),
        }
    ).assign(**columns)
    return frame.assign(raw_gap_years=frame.sag_years + 5 - 0.1 * frame.age_years)


def binary(values: npt.ArrayLike, name: str = "factor", family: str = "lifestyle") -> Exposure:
    return Exposure(family, name, np.asarray(values, dtype=float), True)


def estimate(
    people: pd.DataFrame, *exposures: Exposure, min_exposed: int = 20
) -> tuple[pd.DataFrame, list]:
    return estimate_all(people, exposures, min_exposed=min_exposed, spline_df=4)


# the formulas, against independent references


def hc3_by_hand(y: Floats, design: Floats) -> tuple[float, float, float]:
    """Effect, standard error and p of the first column: MacKinnon & White's HC3 in plain numpy."""
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    leverage = np.diag(design @ inverse @ design.T)
    error = (y - design @ beta) / (1 - leverage)
    se = np.sqrt(np.diag(inverse @ (design.T * error**2) @ design @ inverse))[0]
    p = 2 * stats.t.sf(abs(beta[0] / se), len(y) - design.shape[1])
    return float(beta[0]), float(se), float(p)


def test_effect_limits_and_p_are_those_of_hc3_by_hand() -> None:
    rng = np.random.default_rng(3)
    exposure = (rng.random(60) < 0.3).astype(float)
    covariates = np.column_stack([np.ones(60), rng.normal(size=(60, 3))])
    gap = exposure * 2 + rng.normal(size=60) * (1 + 2 * exposure)
    found, _ = estimate_effect(gap, exposure, covariates)
    effect, se, p = hc3_by_hand(gap, np.column_stack([exposure, covariates]))
    half = stats.t.ppf(0.975, 60 - 5) * se
    assert found is not None
    assert (found.effect_years, found.p) == pytest.approx((effect, p))
    assert (found.low_years, found.high_years) == pytest.approx((effect - half, effect + half))


def test_the_age_spline_spans_the_natural_cubic_splines() -> None:
    age = np.random.default_rng(0).uniform(25, 84, 300)
    knots = np.quantile(age, np.linspace(0, 1, 5))

    def truncated(k: int) -> Floats:  # Hastie, Tibshirani, Friedman, eq. 5.4 and 5.5
        cubes = [np.maximum(age - knot, 0) ** 3 for knot in (knots[k], knots[-1])]
        return (cubes[0] - cubes[1]) / (knots[-1] - knots[k])

    reference = np.column_stack(
        [np.ones(300), age, *(truncated(k) - truncated(3) for k in range(3))]
    )
    ours = np.column_stack([np.ones(300), natural_spline(age, 4)])
    assert ours.shape == reference.shape
    q = np.linalg.qr(reference)[0]
    assert np.abs(ours - q @ (q.T @ ours)).max() < 1e-8


@pytest.mark.parametrize(
    ("ages", "df"), [([50.0] * 20, 0), ([40.0, 60.0] * 10, 1), ([40.0, 50.0, 60.0] * 9, 2)]
)
def test_few_different_ages_give_fewer_spline_columns(ages: list[float], df: int) -> None:
    assert natural_spline(np.array(ages), 4).shape == (len(ages), df)


def test_q_is_benjamini_hochberg_within_family_population_and_outcome() -> None:
    rng = np.random.default_rng(7)
    people = people_of(400)
    exposures = [
        binary(rng.random(400) < 0.4, f"{family} {i}", family)
        for family in ("conditions", "lifestyle")
        for i in range(6)
    ]
    table, not_tested = estimate(people, *exposures)
    assert not_tested == []
    assert len(table) == 12 * 3 * 2
    groups = list(table.groupby(["family", "population", "outcome"]))
    assert len(groups) == 12
    for _, part in groups:
        assert part.q.to_numpy() == pytest.approx(stats.false_discovery_control(part.p.to_numpy()))


# populations of known truth


def test_a_curved_age_bias_does_not_make_a_harmless_exposure_look_harmful() -> None:
    """The exposure depends on age and does nothing; the bias is mildly curved. Nominal 5 %."""
    rng = np.random.default_rng(0)
    rejected = {"spline": 0, "line": 0}
    for _ in range(400):
        age = rng.uniform(25, 84, 400)
        exposure = (rng.random(400) < ((age - 25) / 59) ** 3).astype(float)
        gap = 0.004 * (age - 55) ** 2 + rng.normal(0, 3.5, 400)
        one = np.ones(400)
        for name, columns in (("spline", natural_spline(age, 4)), ("line", age[:, None])):
            found, _ = estimate_effect(gap, exposure, np.column_stack([one, columns]))
            assert found is not None
            rejected[name] += found.p < 0.05
    assert 0.02 < rejected["spline"] / 400 < 0.085  # 0.05 +- 3 standard errors of 400 draws
    assert rejected["line"] / 400 > 0.2


def test_a_planted_effect_is_recovered_and_its_limits_cover_it() -> None:
    rng = np.random.default_rng(1)
    covered, effects = 0, []
    for seed in range(200):
        people = people_of(150, seed)
        exposed = rng.random(150) < 0.3
        noise = rng.normal(0, 2 + 3 * exposed)
        site = people.site.map({"hill": 2.0, "harbour": -1.0, "meadow": 0.0})
        gap = 2.0 * exposed + site + noise + 0.003 * (people.age_years - 50) ** 2
        found, _ = estimate_effect(gap.to_numpy(), exposed.astype(float), design_of(people, 4)[0])
        assert found is not None
        covered += found.low_years <= 2.0 <= found.high_years
        effects.append(found.effect_years)
    assert np.mean(effects) == pytest.approx(2.0, abs=0.2)
    assert 0.90 < covered / 200 < 0.99


def test_a_numeric_factor_is_per_standard_deviation() -> None:
    rng = np.random.default_rng(0)
    bmi = rng.normal(26.5, 4.0, 500)
    people = people_of(500, sag_years=0.3 * bmi + rng.normal(0, 0.5, 500))
    table, _ = estimate(people, Exposure("lifestyle", "bmi, per SD", bmi, False))
    row = table[(table.population == "all") & (table.outcome == "sag")].iloc[0]
    assert row.effect_years == pytest.approx(0.3 * bmi.std(ddof=1), abs=0.1)
    assert (row.num_exposed, row.num_unexposed) == (500, 0)


def test_each_population_is_estimated_by_itself() -> None:
    exposed = np.random.default_rng(7).random(600) < 0.5
    people = people_of(600)
    people["sag_years"] += 4 * exposed * (people.status == "normal")
    table, _ = estimate(people, binary(exposed))
    effect = table[table.outcome == "sag"].set_index("population").effect_years
    assert effect["normal"] == pytest.approx(4, abs=1)
    assert effect["not_normal"] == pytest.approx(0, abs=1)
    numbers = (
        table[table.outcome == "sag"]
        .set_index("population")[["num_exposed", "num_unexposed"]]
        .sum(axis=1)
    )
    assert numbers["all"] == numbers["normal"] + numbers["not_normal"] == 600


# what is not tested, and what is small


def reasons(people: pd.DataFrame, *exposures: Exposure) -> list[str]:
    table, not_tested = estimate(people, *exposures)
    assert not any(table.exposure == exposures[-1].name)
    return sorted({n["reason"] for n in not_tested if n["exposure"] == exposures[-1].name})


def test_too_few_exposed_people_are_listed_not_tested() -> None:
    people = people_of(100, status="normal")
    assert reasons(people, binary(np.arange(100) < 4))[-1] == (
        "4 exposed and 96 unexposed people, 5 of each are needed"
    )


def test_an_exposure_that_is_the_site_is_not_tested() -> None:
    people = people_of(100, status="normal")
    assert "it cannot be told apart from age, sex and site" in reasons(
        people, binary(people.site == "hill")
    )


def test_two_exposures_of_the_same_people_are_one_test() -> None:
    people = people_of(100, status="normal")
    exposed = np.arange(100) % 3 == 0
    assert "the same people as first" in reasons(
        people, binary(exposed, "first"), binary(exposed, "second")
    )


def test_too_few_people_for_the_coefficients_are_listed_not_tested() -> None:
    people = people_of(14, status="normal", site="hill")
    assert "14 people are too few for 7 coefficients" in reasons(people, binary(np.arange(14) % 2))


def test_few_exposed_people_are_tested_and_flagged() -> None:
    table, _ = estimate(people_of(100), binary(np.arange(100) < 10), min_exposed=20)
    assert table[table.population == "all"].is_small.all()
    table, _ = estimate(people_of(100), binary(np.arange(100) < 50), min_exposed=20)
    assert not table[table.population == "all"].is_small.any()


def test_people_whose_exposure_is_unknown_are_left_out_of_that_model_only() -> None:
    values = np.where(np.arange(100) < 30, np.nan, np.arange(100) % 2)
    table, _ = estimate(
        people_of(100), binary(values, "partly"), binary(np.arange(100) % 2, "fully")
    )
    counts = table[(table.population == "all") & (table.outcome == "sag")].set_index("exposure")
    assert counts.loc["partly", "num_exposed"] + counts.loc["partly", "num_unexposed"] == 70
    assert counts.loc["fully", "num_exposed"] + counts.loc["fully", "num_unexposed"] == 100


def test_a_site_of_one_person_does_not_break_the_robust_error() -> None:
    people = people_of(60, status="normal")
    people.loc[0, "site"], people.loc[1, "sex"] = "island", None
    table, _ = estimate(people, binary(np.arange(60) % 2))
    assert len(table) == 4
    assert np.isfinite(
        table[["effect_years", "low_years", "high_years", "p", "q"]].to_numpy(float)
    ).all()


def test_covariates_that_repeat_each_other_are_used_once() -> None:
    people = people_of(80)
    people["sex"] = np.where(people.site == "hill", "F", "M")
    design, _ = design_of(people, 4)
    assert np.linalg.matrix_rank(design) == design.shape[1] == 1 + 4 + 1 + 1


def test_the_covariates_are_named_as_used() -> None:
    assert design_of(people_of(80), 4)[1] == "natural spline(age, df 4) + sex + site"
    assert design_of(people_of(80, site="hill"), 4)[1] == "natural spline(age, df 4) + sex"


def test_nothing_to_test_is_an_empty_table() -> None:
    table, not_tested = estimate(people_of(50))
    assert table.empty
    assert "q" in table
    assert not_tested == []


# who takes part


def test_conditions_are_tested_anywhere_and_by_region() -> None:
    features = [Feature("disc_bulge", r, "disc") for r in ("cervical", "lumbar")]
    features.append(Feature("low_conus", "lumbar", "vertebra"))
    matrix = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    found = of_conditions(matrix, np.array([True, True, True, False]), features)
    values = {e.name: e.values.tolist() for e in found}
    assert list(values) == ["disc bulge", "disc bulge, cervical", "disc bulge, lumbar", "low conus"]
    assert values["disc bulge"][:3] == [1, 1, 0]
    assert values["disc bulge, lumbar"][:3] == [1, 0, 0]
    assert all(np.isnan(v[3]) for v in values.values())


def test_lifestyle_columns_become_binary_numeric_or_levels() -> None:
    table = pd.DataFrame(
        {
            "smoking": ["yes", "No", "", "YES", "no", "no"] * 2,
            "left_handed": ["1.0", "0.0", "0.0", "0.0", None, "1.0"] * 2,
            "bmi": ["21.5", "30", "unknown", "25", "26", "27"] * 2,
            "work": ["office", "office", "heavy", "heavy", "office", "heavy"] * 2,
            "tobacco": ["never", "current"] * 6,
        }
    )
    found, refused = of_lifestyle(table)
    assert refused == []
    assert [e.name for e in found] == [
        "smoking", "left_handed", "bmi, per SD", "work: office (vs heavy)", "tobacco: current (vs never)",
    ]  # fmt: skip
    by_name = {e.name: e.values for e in found}
    np.testing.assert_array_equal(by_name["smoking"], [1, 0, np.nan, 1, 0, 0] * 2)
    np.testing.assert_array_equal(by_name["left_handed"], [1, 0, 0, 0, np.nan, 1] * 2)
    np.testing.assert_array_equal(by_name["bmi, per SD"], [21.5, 30, np.nan, 25, 26, 27] * 2)
    np.testing.assert_array_equal(by_name["tobacco: current (vs never)"], [0, 1] * 6)


def test_a_column_of_names_is_refused_and_not_quoted() -> None:
    found, refused = of_lifestyle(pd.DataFrame({"doctor": ["Quill", "Maria", "Xavier", "Quill"]}))
    assert found == []
    assert [r["exposure"] for r in refused] == ["doctor"]
    assert not any(name in str(refused).lower() for name in ("quill", "maria", "xavier"))


def test_a_word_of_very_few_people_is_unknown_not_a_level() -> None:
    words = ["rural"] * 5 + ["urban"] * 6 + ["Maria"] * 3
    (exposure,), _ = of_lifestyle(pd.DataFrame({"home": words}))
    assert exposure.name == "home: rural (vs urban)"
    np.testing.assert_array_equal(exposure.values, [1] * 5 + [0] * 6 + [np.nan] * 3)


@pytest.mark.parametrize(
    "word", ["=cmd|' /C calc'!A0", "a" * 41, "two\nlines", "@sum", "-1+1", "$x$", "<b>"]
)
def test_a_word_that_does_something_is_no_level_whoever_shares_it(word: str) -> None:
    found, refused = of_lifestyle(pd.DataFrame({"home": [word] * 50 + ["urban"] * 50}))
    assert found == []
    assert word not in str(refused)
    for are_named in (False, True):
        found, _ = of_lifestyle(pd.DataFrame({word: ["yes", "no"] * 50}), are_named=are_named)
        assert [exposure.name for exposure in found] == ["factor 1"]


def test_a_heading_with_a_blank_or_a_date_is_shown_only_when_the_study_names_it() -> None:
    table = pd.DataFrame({name: ["yes", "no"] for name in ("pack years", "anna_1950", "bmi_2")})
    for are_named, names in (
        (False, ["factor 1", "factor 2", "bmi_2"]),
        (True, ["pack years", "anna_1950", "bmi_2"]),
    ):
        found, _ = of_lifestyle(table, are_named=are_named)
        assert [exposure.name for exposure in found] == names
