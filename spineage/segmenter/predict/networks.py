"""The networks of an nnU-Net v2 model, built from its plans and filled from safetensors; never a pickle."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from spineage.errors import BadStudy
from spineage.segmenter.dataset_json import channel_names, check_dataset
from spineage.segmenter.parts import network_of
from spineage.segmenter.plans import check_plans, configurations_of
from spineage.segmenter.predict.labels import is_understood

MAX_LABEL = 255
"""Labels are written as uint8."""


def refuse_unsupported(plans: PlansManager, dataset: dict[str, Any], configuration: str) -> None:
    """Raise BadStudy, in one sentence, for kinds of nnU-Net model that are not handled."""
    check_dataset(dataset)
    available = configurations_of(plans.plans)
    if configuration not in available:
        raise BadStudy(
            f"plans.json has no configuration {configuration!r}, only {', '.join(available)[:300]!r}"
        )
    check_plans(plans.plans, configuration)
    chosen = plans.get_configuration(configuration)
    if chosen.previous_stage_name is not None:
        raise BadStudy(
            "this is the second stage of a cascade, which needs another network's output: import "
            f"{chosen.previous_stage_name} or 3d_fullres of the same dataset"
        )
    schemes, channels = len(chosen.normalization_schemes), len(channel_names(dataset))
    if channels != schemes or len(chosen.use_mask_for_norm) != schemes:
        raise BadStudy(
            f"dataset.json names {channels} input channels, plans.json normalises {schemes}: "
            "they are not of one model"
        )
    highest = max(plans.get_label_manager(dataset).all_labels)
    if highest > MAX_LABEL:
        raise BadStudy(f"the model draws label {highest}; labels up to {MAX_LABEL} are handled")
    name = chosen.configuration["resampling_fn_probabilities"]
    settings = chosen.configuration.get("resampling_fn_probabilities_kwargs", {})
    if not is_understood(name, settings):
        raise BadStudy(
            f"plans.json resamples probabilities by {name} with {settings}; nnU-Net's own planners write "
            "linear interpolation, which is what is handled"
        )


def build_networks(
    plans: PlansManager, dataset: dict[str, Any], configuration: str, weights: bytes
) -> list[torch.nn.Module]:
    """One network per fold, in the order of the folds' names. Raises BadStudy when weights do not fit."""
    folds: dict[str, dict[str, torch.Tensor]] = {}
    try:
        tensors = load_tensors(weights)
    except SafetensorError:
        raise BadStudy("weights.safetensors is not safetensors: import the model again") from None
    for name, tensor in tensors.items():
        fold, _, parameter = name.partition("/")
        folds.setdefault(fold, {})[parameter] = tensor
    if not folds:
        raise BadStudy("weights.safetensors holds no network: import the model again")
    networks = []
    for fold in sorted(folds):
        network = build_network(plans, dataset, configuration)
        if not _fill(network, folds[fold]):
            raise BadStudy(
                f"the weights of {fold} do not fit the network that plans.json describes"
            )
        networks.append(network)
    return networks


def build_network(
    plans: PlansManager, dataset: dict[str, Any], configuration: str
) -> torch.nn.Module:
    """The network that checked plans describe, without deep supervision and with random weights.

    nnU-Net's own builder would look every name up; here only what `plans.py` lists can be built.
    """
    architecture = plans.get_configuration(configuration).configuration["architecture"]
    kind, kwargs = network_of(architecture)
    try:
        return kind(
            **{
                **kwargs,
                "input_channels": len(channel_names(dataset)),
                "num_classes": plans.get_label_manager(dataset).num_segmentation_heads,
                "deep_supervision": False,
            }
        )
    except (TypeError, ValueError, AssertionError, IndexError, RuntimeError) as error:
        raise BadStudy(
            f"plans.json describes a network that cannot be built ({type(error).__name__}): take the "
            "plans.json the model was trained with"
        ) from None


def _fill(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    """Load weights in which a tensor that has several names is stored once; whether all of them fitted."""
    own = network.state_dict()
    filled = {own[name].data_ptr() for name in weights if name in own}
    try:
        keys = network.load_state_dict(weights, strict=False)
    except RuntimeError:
        return False
    return not keys.unexpected_keys and all(
        own[name].data_ptr() in filled for name in keys.missing_keys
    )
