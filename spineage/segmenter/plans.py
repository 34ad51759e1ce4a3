"""What a plans.json may say: closed lists of every name in it that nnU-Net turns into a call or an import.

nnU-Net looks its network up with `pydoc.locate`, and normalisation, resampling, preprocessor and label
manager as any attribute of any module in a folder; it then calls what it found with the file's own arguments.
So a plans.json is a program. `check_plans` is asked at the import and at every load, before anything is
built; the network's class and parts come from `parts.py` and are never looked up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from spineage.errors import BadStudy
from spineage.segmenter.dataset_json import READERS
from spineage.segmenter.parts import NETWORKS, PARTS

Values = Mapping[str, Any]

SETTINGS: Final[dict[str, frozenset[str]]] = {
    "norm_op_kwargs": frozenset({"eps", "affine", "momentum", "track_running_stats"}),
    "dropout_op_kwargs": frozenset({"p", "inplace"}),
    "nonlin_kwargs": frozenset({"inplace", "negative_slope", "alpha"}),
}
MOST: Final = {
    "n_stages": 16,
    "features_per_stage": 4096,
    "kernel_sizes": 31,
    "strides": 16,
    "n_conv_per_stage": 64,
    "n_blocks_per_stage": 64,
    "n_conv_per_stage_decoder": 64,
    "bottleneck_channels": 4096,
    "stem_channels": 4096,
}
"""Whole numbers of an architecture, or lists of them, from 1 up to this: more than any published network
has, and less than fills a machine's memory before a weight was read."""
SWITCHES: Final = frozenset({"conv_bias", "nonlin_first", "deep_supervision"})

NORMALISATIONS: Final = frozenset({
    "ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization",
    "RGBTo01Normalization",
})  # fmt: skip
SKIMAGE, TORCH, NONE = (
    "resample_data_or_seg_to_shape",
    "resample_torch_fornnunet",
    "no_resampling_hack",
)
"""nnU-Net's functions that resample."""
RESAMPLINGS: Final[dict[str, frozenset[str]]] = {
    SKIMAGE: frozenset({
        "is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"
    }),
    TORCH: frozenset({
        "is_seg", "num_threads", "memefficient_seg_resampling", "force_separate_z",
        "separate_z_anisotropy_threshold", "mode", "aniso_axis_mode",
    }),
    NONE: frozenset(),
}  # fmt: skip
"""nnU-Net's functions and the arguments that plans may give them."""
WORDS: Final = frozenset({"linear", "nearest", "nearest-exact"})
PREPROCESSORS: Final = frozenset({"DefaultPreprocessor"})
LABEL_MANAGERS: Final = frozenset({"LabelManager"})
PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
"""Of what becomes part of a path, or is only told: no separator, no blank, no control character."""
MAX_PATCH_VOXELS: Final = 2**27


def check_plans(plans: Any, configuration: str) -> None:
    """Raise BadStudy, in one sentence, for plans that name anything outside the closed lists or hold numbers
    that no plan has. configuration: the one that is used; the others are never read."""
    chosen = resolved(plans, configuration)
    for key in ("dataset_name", "plans_name", "experiment_planner_used"):
        _plain(key, plans.get(key, "none"))
    for key in ("data_identifier", "previous_stage"):
        _plain(key, chosen.get(key) or "none")
    for other in plans[
        "configurations"
    ].values():  # the trainer makes a folder for the next stage's
        _plain("data_identifier", other.get("data_identifier", "none"))
    _known("label_manager", plans.get("label_manager", "LabelManager"), LABEL_MANAGERS)
    _known("image_reader_writer", plans.get("image_reader_writer", "NibabelIO"), READERS)
    _known("preprocessor_name", chosen.get("preprocessor_name"), PREPROCESSORS)
    for scheme in _list("normalization_schemes", chosen.get("normalization_schemes")):
        _known("normalization_schemes", scheme, NORMALISATIONS)
    for what in ("data", "seg", "probabilities"):
        _check_resampling(f"resampling_fn_{what}", chosen)
    _check_grid(plans, chosen)
    _check_intensities(plans)
    if "architecture" in chosen:
        _check_architecture(chosen["architecture"])
    else:
        _check_old(chosen)


def configurations_of(plans: Any) -> dict[str, dict[str, Any]]:
    """The configurations by name. Raises BadStudy where there are none."""
    found = plans.get("configurations") if isinstance(plans, dict) else None
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise _odd("configurations", "a table of configurations")
    return found


def resolved(plans: Any, configuration: str) -> dict[str, Any]:
    """One configuration with what it inherits. Raises BadStudy where there is none, or it goes in circles."""
    configurations = configurations_of(plans)
    chain: list[dict[str, Any]] = []
    name: Any = configuration
    while name is not None:
        here = configurations.get(name) if isinstance(name, str) else None
        if not isinstance(here, dict) or len(chain) > len(configurations):
            raise _odd("configurations", f"a configuration {_quoted(name)} that ends somewhere")
        chain.append(here)
        name = here.get("inherits_from")
    return {k: v for here in reversed(chain) for k, v in here.items() if k != "inherits_from"}


def _check_architecture(architecture: Any) -> None:
    if not isinstance(architecture, dict):
        raise _odd("architecture", "a table")
    _known("network_class_name", architecture.get("network_class_name"), NETWORKS)
    asked = _list("_kw_requires_import", architecture.get("_kw_requires_import"))
    for key in asked:
        _known("_kw_requires_import", key, PARTS)
    kwargs = architecture.get("arch_kwargs")
    if not isinstance(kwargs, dict):
        raise _odd("arch_kwargs", "a table")
    for key, value in kwargs.items():
        _check_argument(key, value)


def _check_argument(key: str, value: Any) -> None:
    """One argument of a network's class."""
    if key in PARTS:
        _known(key, value, PARTS[key], may_lack=True)
    elif key in SETTINGS:
        _check_settings(key, value if value is not None else {}, SETTINGS[key])
    elif key in SWITCHES:
        if not isinstance(value, bool):
            raise _odd(key, "true or false")
    elif key in MOST:
        _check_sizes(key, value)
    else:
        _known("arch_kwargs", key, {*PARTS, *SETTINGS, *SWITCHES, *MOST})


def _check_sizes(key: str, value: Any, depth: int = 0) -> None:
    if isinstance(value, list | tuple) and depth < 2 and 0 < len(value) <= 16:
        for one in value:
            _check_sizes(key, one, depth + 1)
    elif value is None and key in ("bottleneck_channels", "stem_channels"):
        return
    elif not _is_whole(value, 1, MOST[key]):
        raise _odd(key, f"whole numbers from 1 to {MOST[key]}")


def _check_settings(key: str, values: Any, allowed: Collection[str]) -> None:
    """A flat table of switches, numbers and the few words that are known."""
    if not isinstance(values, dict):
        raise _odd(key, "a table")
    for name, value in values.items():
        _known(key, name, allowed)
        is_plain = value is None or isinstance(value, bool) or _is_number(value, -1e6, 1e6)
        if not is_plain and not (isinstance(value, str) and value in WORDS):
            raise _odd(f"{key}.{name}", "a number, true or false")


def _check_resampling(key: str, chosen: Values) -> None:
    function = chosen.get(key)
    _known(key, function, RESAMPLINGS)
    _check_settings(f"{key}_kwargs", chosen.get(f"{key}_kwargs", {}), RESAMPLINGS[str(function)])


def _check_grid(plans: Values, chosen: Values) -> None:
    patch, spacing = (_list(k, chosen.get(k)) for k in ("patch_size", "spacing"))
    if len(patch) not in (2, 3) or not all(_is_whole(n, 1, 4096) for n in patch):
        raise _odd("patch_size", "two or three whole numbers up to 4096")
    if math.prod(patch) > MAX_PATCH_VOXELS:
        raise _odd("patch_size", f"{MAX_PATCH_VOXELS} voxels at most")
    if len(spacing) != len(patch) or not all(_is_number(mm, 0.01, 100) for mm in spacing):
        raise _odd("spacing", "as many numbers as patch_size has, 0.01 to 100 mm")
    for key in ("transpose_forward", "transpose_backward"):
        order = _list(key, plans.get(key))
        if not all(_is_whole(axis, 0, 2) for axis in order) or sorted(order) != [0, 1, 2]:
            raise _odd(key, "the axes 0, 1, 2 in some order")
    masks = _list("use_mask_for_norm", chosen.get("use_mask_for_norm"))
    if not masks or not all(isinstance(mask, bool) for mask in masks):
        raise _odd("use_mask_for_norm", "true or false for each channel")


def _check_intensities(plans: Values) -> None:
    """Means and percentiles of the training images, which CT normalisation subtracts and divides by."""
    for key in (
        "foreground_intensity_properties_per_channel",
        "foreground_intensity_properties_by_modality",
    ):
        channels = plans.get(key, {})
        tables = list(channels.values()) if isinstance(channels, dict) else [None]
        for table in tables:
            numbers = list(table.values()) if isinstance(table, dict) else [None]
            if not all(_is_number(number, -1e12, 1e12) for number in numbers):
                raise _odd(key, "numbers for each channel")


def _check_old(chosen: Values) -> None:
    """Plans from before nnU-Net 2.4, which say the class by its bare name and sizes in keys of their own."""
    _known(
        "UNet_class_name", chosen.get("UNet_class_name"), ("PlainConvUNet", "ResidualEncoderUNet")
    )
    for key, limit in (
        ("UNet_base_num_features", "features_per_stage"),
        ("unet_max_num_features", "features_per_stage"),
        ("n_conv_per_stage_encoder", "n_conv_per_stage"),
        ("n_conv_per_stage_decoder", "n_conv_per_stage_decoder"),
        ("conv_kernel_sizes", "kernel_sizes"),
        ("pool_op_kernel_sizes", "strides"),
    ):
        try:
            _check_sizes(limit, chosen.get(key))
        except BadStudy:
            raise _odd(key, f"whole numbers from 1 to {MOST[limit]}") from None
    if "num_pool_per_axis" not in chosen:
        raise _odd("num_pool_per_axis", "a number for each axis")


# what is asked of one value


def _known(key: str, value: Any, known: Collection[str], may_lack: bool = False) -> None:
    if value is None and may_lack:
        return
    if not isinstance(value, str) or value not in known:
        raise BadStudy(
            f"plans.json names {_quoted(value)} as {key}, which is not one of {_listed(known)}: "
            "anything else would be code from a file, so it is not run; ask the model's authors for plans "
            "that nnU-Net's own planners wrote"
        )


def _listed(names: Collection[str]) -> str:
    """Without the modules they are in."""
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))


def _plain(key: str, value: Any) -> None:
    if not isinstance(value, str) or not PLAIN_NAME.fullmatch(value):
        raise _odd(key, "a plain name of letters, digits, dots, dashes and underscores")


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > 64:
        raise _odd(key, "a list")
    return list(value)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    """NaN lies between no two numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _odd(key: str, expected: str) -> BadStudy:
    return BadStudy(
        f"plans.json: {key} is not what nnU-Net writes there; expected {expected}: take the plans.json the "
        "model was trained with"
    )


def _quoted(value: Any) -> str:
    """Short, and without what would move a terminal's cursor."""
    text = value if isinstance(value, str) else type(value).__name__
    return repr(text[:80])
