import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import SEMANTIC
from spineage.science.spine.levels import find_levels
from spineage.science.spine.morphometry import measure
from tests.made.drawn_spine import Drawing, draw, names_of

CSF, DISC = 800.0, 240.0


def image_of(semantic: Volume) -> Volume:
    signal = np.zeros(6, np.float32)
    signal[[SEMANTIC["canal"], SEMANTIC["disc"], SEMANTIC["vertebra"]]] = CSF, DISC, 400.0
    return semantic.with_voxels(signal[semantic.voxels_RAS])


@pytest.fixture(scope="module")
def measured():
    semantic, _ = draw(Drawing(bend=0.0))
    return measure(image_of(semantic), find_levels(semantic))


def test_every_level_and_disc_has_one_value_of_each_measure(measured):
    assert measured.level_names[1:] == names_of(23)
    assert measured.disc_names == names_of(23)
    assert len(measured.level_height_mm) == len(measured.level_volume_mm3) == 24
    assert (
        len(measured.disc_height_mm)
        == len(measured.disc_signal)
        == len(measured.canal_diameter_mm)
        == 23
    )


def test_heights_are_those_that_were_drawn(measured):
    drawn = np.interp(range(23), [0, 6, 18, 23], [14, 15, 24, 28])
    found = np.array(measured.level_height_mm)
    assert np.isnan(found[0])  # C1 has no body
    assert np.abs(found[2:] - drawn[1:]).max() < 2.0  # one voxel
    assert np.abs(np.array(measured.disc_height_mm) - 6.0).max() < 1.0


def test_a_thinner_disc_measures_thinner_by_as_much():
    def mean_height(disc_mm):
        semantic, _ = draw(Drawing(disc_mm=disc_mm, bend=0.0))
        return np.mean(measure(image_of(semantic), find_levels(semantic)).disc_height_mm)

    assert mean_height(10.0) - mean_height(4.0) == pytest.approx(6.0, abs=0.5)


def test_a_collapsed_body_measures_lower_than_its_neighbours():
    semantic, _ = draw(Drawing(collapsed={"T8": 0.6}))
    found = measure(image_of(semantic), find_levels(semantic))
    heights = dict(zip(found.level_names, found.level_height_mm, strict=True))
    assert heights["T8"] / np.mean([heights["T7"], heights["T9"]]) == pytest.approx(0.6, abs=0.1)


def test_disc_signal_is_relative_to_the_fluid_and_the_scanners_gain_drops_out(measured):
    assert measured.disc_signal == pytest.approx([DISC / CSF] * 23)
    semantic, _ = draw(Drawing(bend=0.0))
    image = image_of(semantic)
    louder = measure(image.with_voxels(image.voxels_RAS * 3.7), find_levels(semantic))
    assert louder.disc_signal == pytest.approx(measured.disc_signal)


def test_the_canal_is_as_deep_as_drawn(measured):
    assert np.abs(np.array(measured.canal_diameter_mm) - 14.0).max() < 1.5


def test_measures_do_not_depend_on_how_the_spine_is_bent(measured):
    semantic, _ = draw(Drawing(bend=2.0))
    bent = measure(image_of(semantic), find_levels(semantic))
    for name in ("disc_height_mm", "canal_diameter_mm"):
        assert np.abs(np.array(getattr(bent, name)) - getattr(measured, name)).max() < 1.5, name


def test_no_signal_in_the_fluid_is_a_fault():
    semantic, _ = draw(Drawing())
    levels = find_levels(semantic)
    with pytest.raises(BadScan) as fault:
        measure(semantic.with_voxels(np.zeros(semantic.voxels_RAS.shape, np.float32)), levels)
    assert fault.value.code == "implausible_mask"
