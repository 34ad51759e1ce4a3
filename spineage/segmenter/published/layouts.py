"""Published models whose labels and orientation are known, so that nobody needs to state them.

A model is recognised by its dataset.json alone, to the last label; SPINEPS says itself what its model is, in
`inference_config.json`. What gives levels or tissues only after its own tool's post-processing is refused
with that reason (half a tool mislabels), but for TotalSpineSeg's first step, whose four named discs a count
is held against. Sources, read 2026-11-24: TotalSpineSeg resources/datasets/*.json;
SPINEPS inference_config and README; TotalSegmentator class map and task table.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spineage.errors import BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.science.spine.foreign import TOOLS
from spineage.science.spine.labels import VERTEBRAE

Labels = dict[str, int | list[int]]


@dataclass(frozen=True)
class Layout:
    """A published model. labels: those of its dataset.json (may_have: some versions have these too);
    names: name in dataset.json to ours; lacks: what our schema has and the model does not draw; without:
    what its own tool does around the network, or says of it, and we do not; refusal: why it is not imported,
    "" where it is."""

    about: str
    labels: Labels
    names: dict[str, str] = field(default_factory=dict)
    may_have: Labels = field(default_factory=dict)
    orientation: str = "RAS"
    lacks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    refusal: str = ""

    def fits(self, labels: Labels) -> bool:
        """Whether a dataset.json has exactly these labels."""
        as_named = dict(labels)
        return as_named == self.labels or as_named == {**self.labels, **self.may_have}


OWN_TOOL: Final = (
    "segment with the tool itself; its label volumes can be learned from with "
    "`spineage train-segmenter --labels FOLDER --schema totalspineseg`"
)
_LANDMARKS: Final[Labels] = {
    "background": 0,
    "disc": [1, 2, 3, 4, 5],
    "disc_C2_C3": 2,
    "disc_C7_T1": 3,
    "disc_T12_L1": 4,
    "disc_L5_S": 5,
}
_CERVICAL, _THORACIC, _LUMBAR = VERTEBRAE[:7], VERTEBRAE[7:19], VERTEBRAE[20:25]


def _full_names() -> dict[str, str]:
    """TotalSpineSeg's single model, in the order of its regions: of bone or disc whose level it cannot
    tell it says the region only, which is no level and becomes background."""
    chain = (*_CERVICAL, *_THORACIC, *_LUMBAR, "S")
    names = {"disc": "background"}
    for region in ("C", "T", "L"):
        names[f"disc_{region}"] = "background"
        for upper, lower in itertools.pairwise(chain[1:]):
            if upper[0] == region:
                names[f"disc_{upper}_{lower}"] = f"disc_below_{upper}"
    names["vertebrae"] = "background"
    for region, part in (("C", _CERVICAL), ("T", _THORACIC), ("L", _LUMBAR)):
        names[f"vertebrae_{region}"] = "background"
        names |= {f"vertebrae_{name}": name for name in part}
    return {**names, "sacrum": "sacrum", "canal": "canal", "cord": "cord"}


def _full_labels() -> Labels:
    """Each region of the single model holds itself and what is named after it."""
    value = {name: i for i, name in enumerate(_full_names(), start=1)}
    ends = {
        "disc": "disc_L5_S", "disc_C": "disc_C7_T1", "disc_T": "disc_T12_L1", "disc_L": "disc_L5_S",
        "vertebrae": "sacrum", "vertebrae_C": "vertebrae_C7", "vertebrae_T": "vertebrae_T12",
        "vertebrae_L": "sacrum", "canal": "cord",
    }  # fmt: skip
    whole: Labels = {n: list(range(value[n], value[end] + 1)) for n, end in ends.items()}
    return {"background": 0, **{n: whole.get(n, v) for n, v in value.items()}}


def _by_tool(tool: str, names: dict[str, str]) -> tuple[Labels, dict[str, str]]:
    """(labels, our names) from names by our name and the tool's table in science/spine/foreign.py."""
    table = TOOLS[tool].names
    labels: Labels = {
        "background": 0,
        **{names.get(n, n): v for v, n in table.items() if n != "background"},
    }
    return labels, {names.get(n, n): n for n in table.values() if n != "background"}


_MR_LABELS, _MR_NAMES = _by_tool("vertebrae_mr", {n: f"vertebrae_{n}" for n in VERTEBRAE})
_ORGANS: Final = (
    "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas",
    "adrenal_gland_right", "adrenal_gland_left", "lung_left", "lung_right", "esophagus", "small_bowel",
    "duodenum", "colon", "urinary_bladder", "prostate", "sacrum", "vertebrae", "intervertebral_discs",
    "spinal_cord", "heart", "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein",
    "iliac_artery_left", "iliac_artery_right", "iliac_vena_left", "iliac_vena_right",
)  # fmt: skip
_MUSCLES: Final = (
    "humerus_left", "humerus_right", "scapula_left", "scapula_right", "clavicula_left", "clavicula_right",
    "femur_left", "femur_right", "hip_left", "hip_right", "gluteus_maximus_left", "gluteus_maximus_right",
    "gluteus_medius_left", "gluteus_medius_right", "gluteus_minimus_left", "gluteus_minimus_right",
    "autochthon_left", "autochthon_right", "iliopsoas_left", "iliopsoas_right", "brain",
)  # fmt: skip
_TISSUES: Final = {
    "sacrum": "sacrum", "vertebrae": "vertebra", "intervertebral_discs": "disc", "spinal_cord": "cord",
}  # fmt: skip

_TOTAL_ORDER: Final = (
    "TotalSegmentator resamples its input linearly since 2.16, here it is by splines"
)
_SPINEPS_STEPS: Final = (
    "SPINEPS corrects the bias field (N4) and scales to 0-1500 before its network",
    "it removes small components and fills holes afterwards",
)
LAYOUTS: Final[dict[str, Layout]] = {
    "totalspineseg-step1": Layout(
        "TotalSpineSeg Dataset101",
        {**_LANDMARKS, "vertebrae": [6, 7], "vertebrae_C1": 7, "canal": [8, 9], "cord": 9},
        {
            "disc": "disc",
            "disc_C2_C3": "disc_C2_C3",
            "disc_C7_T1": "disc_C7_T1",
            "disc_T12_L1": "disc_T12_L1",
            "disc_L5_S": "disc_on_sacrum",
            "vertebrae": "vertebra",
            "vertebrae_C1": "vertebra",
            "canal": "canal",
            "cord": "cord",
        },
        without=(
            "TotalSpineSeg names levels by its second step and iterative labelling; here they are counted, "
            "the four discs that step 1 names must agree, and bone below the last of them is the sacrum",
        ),
    ),
    "totalspineseg-step2": Layout(
        "TotalSpineSeg Dataset102",
        {
            **_LANDMARKS,
            "vertebrae": [6, 7, 8, 9],
            "vertebrae_O": 7,
            "vertebrae_E": 8,
            "sacrum": 9,
            "canal": [10, 11],
            "cord": 11,
        },
        refusal="TotalSpineSeg's step 2 wants every other disc of step 1 as a second channel, and tells odd "
        f"from even vertebrae only, which the tool's iterative labelling then names: {OWN_TOOL}",
    ),
    "totalspineseg-full": Layout(
        "TotalSpineSeg Dataset103, its single model",
        _full_labels(),
        _full_names(),
        without=(
            "it was in the release of September 2024 only, and its makers found that it was not good: "
            "masks of their two steps are better (segment.masks)",
        ),
    ),
    "vertebrae_mr": Layout(
        "TotalSegmentator vertebrae_mr (Dataset756)",
        _MR_LABELS,
        _MR_NAMES,
        lacks=("discs", "canal", "cord"),
        without=(_TOTAL_ORDER,),
    ),
    "total_mr": Layout(
        "TotalSegmentator total_mr, the network of organs (Dataset850), or of all (852, 853)",
        {"background": 0, **{n: i for i, n in enumerate(_ORGANS, start=1)}},
        {**dict.fromkeys((*_ORGANS, *_MUSCLES), "background"), **_TISSUES},
        may_have={n: i for i, n in enumerate(_MUSCLES, start=30)},
        lacks=("canal",),
        without=(_TOTAL_ORDER,),
    ),
    "total_mr-muscles": Layout(
        "TotalSegmentator total_mr, the network of muscles (Dataset851)",
        {"background": 0, **{n: i for i, n in enumerate(_MUSCLES, start=1)}},
        refusal="this network of total_mr draws muscles and the brain, nothing of the spine: import the "
        "network of organs (Dataset850)",
    ),
}
SPINEPS: Final = "spineps"
NAMES: Final = (*LAYOUTS, SPINEPS)


@dataclass(frozen=True)
class Known:
    """What is known of a model in advance: name of the layout ("" for none), orientation and names."""

    layout: str = ""
    orientation: str | None = None
    names: dict[str, str] | None = None
    lacks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def recognise(model_folder: Path, dataset: dict[str, Any], stated: str | None) -> Known:
    """The layout of a model, from its files; a stated one must be the same.

    Raises BadStudy for a layout that does not exist, one that the files contradict, and a model that its
    tool does not use alone.
    """
    if stated is not None and stated not in NAMES:
        raise BadStudy(f"layout {stated!r} is not known; expected one of {', '.join(NAMES)}")
    labels = dataset.get("labels", {})
    config = model_folder / "inference_config.json"
    fits = [name for name, layout in LAYOUTS.items() if layout.fits(labels)]
    recognised = SPINEPS if config.is_file() else fits[0] if fits else ""
    if stated and stated != recognised:
        raise BadStudy(_contradiction(stated, recognised, labels))
    if recognised == SPINEPS:
        return _spineps(config, dataset)
    if not recognised:
        return Known()
    layout = LAYOUTS[recognised]
    if layout.refusal:
        raise BadStudy(layout.refusal)
    names = {n: ours for n, ours in layout.names.items() if n in labels}
    return Known(recognised, layout.orientation, names, layout.lacks, layout.without)


def _contradiction(stated: str, recognised: str, labels: Labels) -> str:
    if stated == SPINEPS:
        return "layout spineps was stated, but no inference_config.json lies beside dataset.json"
    expected = LAYOUTS[stated].labels
    odd = sorted(n for n in {*expected, *labels} if expected.get(n) != labels.get(n))
    return (
        f"layout {stated} was stated, but dataset.json does not have its labels: {', '.join(odd[:5])} "
        f"{'differ' if odd else 'fit, another file does not'}; "
        + (
            f"it is that of {recognised}"
            if recognised
            else "leave --layout out and give a label map"
        )
    )


def _spineps(config: Path, dataset: dict[str, Any]) -> Known:
    """SPINEPS' own words about its model: which phase, which orientation, what each label is."""
    remedy = "take the one SPINEPS published with the model"
    settings = read_table_file(config, config.name, remedy)
    try:
        kind, inputs = str(settings["modeltype"]), list(settings.get("expected_inputs", ["img"]))
        orientation = "".join(settings["model_expected_orientation"])
        named = {int(value): str(name) for value, name in settings["labels"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadStudy(
            f"{config.name} lacks modeltype, model_expected_orientation or labels: {remedy}"
        ) from None
    if kind != "nnunet" or inputs != ["img"]:
        raise BadStudy(
            f"this SPINEPS model is a {kind} that reads {', '.join(map(str, inputs))}: its instance and "
            "VERIDAH networks name vertebrae only together with SPINEPS' own steps; import the semantic "
            "model, or learn from SPINEPS' masks with `spineage train-segmenter --schema spineps-veridah`"
        )
    values = {int(v) for v in dataset.get("labels", {}).values() if isinstance(v, int)} - {0}
    names = {}
    for name, value in dataset.get("labels", {}).items():
        if value == 0 or name == "ignore":
            continue
        ours = _tissue(named.get(value, "")) if isinstance(value, int) else None
        if ours is None or values != set(named):
            raise BadStudy(
                f"label {name} of dataset.json is {named.get(value, 'not named')} in inference_config.json, "
                "which is no tissue of SPINEPS' semantic model: the two files are not of one model"
            )
        names[name] = ours
    return Known(SPINEPS, orientation, names, without=_SPINEPS_STEPS)


_LOCATIONS: Final = {
    "Vertebra_Full": 40, "Arcus_Vertebrae": 41, "Spinosus_Process": 42, "Costal_Process_Left": 43,
    "Costal_Process_Right": 44, "Superior_Articular_Left": 45, "Superior_Articular_Right": 46,
    "Inferior_Articular_Left": 47, "Inferior_Articular_Right": 48, "Vertebra_Corpus_border": 49,
    "Vertebra_Corpus": 50, "Dens_axis": 51, "Vertebral_Body_Endplate_Superior": 52,
    "Vertebral_Body_Endplate_Inferior": 53, "Spinal_Cord": 60, "Spinal_Canal": 61, "Endplate": 62,
    "Vertebra_Disc": 100, "S1": 26, "Sacrum": 26,
}  # fmt: skip


def _tissue(location: str) -> str | None:
    """Our tissue for a location of TPTBox, given by name or number; None when it is none."""
    value = int(location) if location.isdigit() else _LOCATIONS.get(location)
    return TOOLS[SPINEPS].names.get(value) if value is not None else None
