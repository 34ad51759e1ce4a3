"""What a person is told, and when they are told nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis as reference

from spineage.errors import BadScan, BadStudy
from spineage.science.gap.bias import AgeBias
from spineage.science.gap.conformal import Intervals
from spineage.science.gap.score import (
    Familiarity,
    domain_of,
    flags_of,
    refuse_unfamiliar,
    require_self_test,
    score_one,
    self_test,
    self_test_tensor,
)
from spineage.science.network.network import SpineAgeNet

BIAS = AgeBias((2.0, -0.3), ((0.25, 0.0), (0.0, 0.01)), 55.0, 40, 30.0, 80.0)
INTERVALS = Intervals((50.0,), (6.0, 9.0), (20, 20), 0.9)


def test_the_gap_is_spine_age_minus_age_and_positive_is_older_looking():
    row = score_one(60.0, 45.0, bias=BIAS, intervals=INTERVALS)
    expected_bias = 2.0 - 0.3 * (45 - 55)
    assert row["predicted_years"] == 60.0
    assert row["spine_age_years"] == pytest.approx(60 - expected_bias)
    assert row["sag_years"] == pytest.approx(60 - expected_bias - 45)
    assert row["sag_years"] > 0
    assert row["correction_se_years"] == pytest.approx(np.sqrt(0.25 + 0.01 * 100))


@settings(max_examples=60, deadline=None)
@given(predicted=st.floats(10, 110), age=st.one_of(st.none(), st.floats(18, 95)))
def test_raw_prediction_and_interval_do_not_know_the_age(predicted, age):
    row = score_one(predicted, age, bias=BIAS, intervals=INTERVALS)
    half = 6.0 if predicted < 50 else 9.0
    assert row["predicted_years"] == predicted
    assert row["interval_low_years"] == pytest.approx(predicted - half)
    assert row["interval_high_years"] == pytest.approx(predicted + half)


def test_nobody_without_an_age_is_dropped_or_given_one():
    row = score_one(60.0, None, bias=BIAS, intervals=INTERVALS)
    assert row["predicted_years"] == 60.0
    assert row["spine_age_years"] is row["sag_years"] is row["correction_se_years"] is None


@pytest.mark.parametrize(
    ("changed", "flags"),
    [
        ({}, []),
        ({"age_years": None}, ["no_age"]),
        ({"age_years": 81.0}, ["age_outside_range"]),
        ({"age_years": 29.0}, ["age_outside_range"]),
        ({"role": "train"}, ["trained_on"]),
        ({"role": "calibrate"}, []),
        ({"num_discs_inferred": 1}, ["discs_inferred"]),
        ({"numbering": "L6 present"}, ["transitional"]),
        ({"age_years": None, "role": "train"}, ["no_age", "trained_on"]),
    ],
)
def test_flags_say_what_a_reader_must_know(changed, flags):
    plain = {"age_years": 50.0, "role": "unseen", "num_discs_inferred": 0, "numbering": "regular"}
    assert flags_of(bias=BIAS, **{**plain, **changed}) == flags


def test_distance_is_mahalanobis_over_the_limit():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    mean, precision = features.mean(0), np.linalg.inv(np.cov(features.T))
    known = Familiarity(mean, precision, limit=3.0)
    new = features[0] + 1.0
    assert known.distance(new) == pytest.approx(reference(new, mean, precision) / 3.0)
    assert known.distance(mean) == 0.0
    assert known.distance(np.full(6, np.nan)) == np.inf


def refusal(**changed) -> BadScan | None:
    plain = {"distance": 0.5, "domain": "phantom", "is_phantom": True, "predicted_years": 50.0}
    try:
        refuse_unfamiliar(**{**plain, **changed})
    except BadScan as fault:
        return fault
    return None


def test_a_model_trained_on_phantoms_gives_no_real_person_an_age():
    fault = refusal(is_phantom=False, distance=0.01)
    assert fault is not None
    assert fault.code == "outside_model"
    assert "phantoms only" in str(fault)
    assert refusal(is_phantom=False, domain="real") is None
    assert refusal(is_phantom=False, domain="mixed") is None
    assert refusal(is_phantom=True) is None


@pytest.mark.parametrize("domain", ["phantom", "mixed", "real"])
def test_a_scan_beyond_the_limit_is_refused_whatever_the_model(domain):
    assert refusal(domain=domain, distance=1.0) is None
    for distance in (1.001, 50.0, np.inf, np.nan):
        fault = refusal(domain=domain, distance=distance)
        assert fault is not None
        assert fault.code == "outside_model"


def test_an_answer_that_is_no_number_is_refused():
    assert refusal(predicted_years=np.nan) is not None


def test_the_domain_is_that_of_all_training_scans():
    assert domain_of([True, True]) == "phantom"
    assert domain_of([False, False]) == "real"
    assert domain_of([True, False]) == "mixed"


def test_the_self_test_tensor_is_varied_bounded_and_always_the_same():
    tensor = self_test_tensor((8, 40, 160))
    assert tensor.shape == (1, 1, 8, 40, 160)
    assert tensor.dtype == torch.float32
    assert 0 <= tensor.min() < 0.05
    assert 0.95 < tensor.max() <= 1
    pattern = np.sin(0.7 * 2) * np.cos(0.11 * 3) * np.sin(0.05 * 5 + 0.3)
    assert float(tensor[0, 0, 2, 3, 5]) == pytest.approx((pattern + 1) / 2)
    assert torch.equal(tensor, self_test_tensor((8, 40, 160)))


def test_the_self_test_tells_one_network_from_another():
    def network(seed: int) -> SpineAgeNet:
        torch.manual_seed(seed)
        return SpineAgeNet((4, 8), ((1, 2, 2), (2, 2, 2)), 0.2, 55.0, 12.0).eval()

    published = self_test(network(1), (8, 16, 32))
    require_self_test(self_test(network(1), (8, 16, 32)), published)
    with pytest.raises(BadStudy, match="self-test"):
        require_self_test(self_test(network(2), (8, 16, 32)), published)
    with pytest.raises(BadStudy, match="self-test"):
        require_self_test(float("nan"), published)
