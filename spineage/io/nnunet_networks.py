"""The networks of an nnU-Net v2 model, built from its plans and filled from safetensors; never a pickle."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load as load_tensors

from spineage.errors import BadStudy
from spineage.io.nnunet_labels import is_understood

PREPROCESSOR = "DefaultPreprocessor"
MAX_LABEL = 255
"""Labels are written as uint8."""


def num_channels(dataset: dict[str, Any]) -> int:
    """Images that the model looks at together."""
    return len(dataset.get("channel_names", dataset.get("modality", {})))


def refuse_unsupported(plans: PlansManager, dataset: dict[str, Any], configuration: str) -> None:
    """Raise BadStudy, in one sentence, for kinds of nnU-Net model that are not handled."""
    if configuration not in plans.available_configurations:
        raise BadStudy(
            f"plans.json has no configuration {configuration!r}, only "
            f"{', '.join(plans.available_configurations)}"
        )
    chosen = plans.get_configuration(configuration)
    if chosen.previous_stage_name is not None:
        raise BadStudy(
            "this is the second stage of a cascade, which needs another network's output: import "
            f"{chosen.previous_stage_name} or 3d_fullres of the same dataset"
        )
    schemes = len(chosen.configuration["normalization_schemes"])
    if num_channels(dataset) != schemes:
        raise BadStudy(
            f"dataset.json names {num_channels(dataset)} input channels, plans.json normalises {schemes}: "
            "they are not of one model"
        )
    if chosen.configuration["preprocessor_name"] != PREPROCESSOR:
        raise BadStudy(
            f"plans.json names a preprocessor of its own, {chosen.configuration['preprocessor_name']}; "
            f"{PREPROCESSOR}, nnU-Net's for every planner, is handled"
        )
    highest = max(plans.get_label_manager(dataset).all_labels)
    if highest > MAX_LABEL:
        raise BadStudy(f"the model draws label {highest}; labels up to {MAX_LABEL} are handled")
    name = chosen.configuration["resampling_fn_probabilities"]
    settings = chosen.configuration["resampling_fn_probabilities_kwargs"]
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
    for name, tensor in load_tensors(weights).items():
        fold, parameter = name.split("/", 1)
        folds.setdefault(fold, {})[parameter] = tensor
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
    """nnU-Net's own architecture builder, without deep supervision and with random weights."""
    chosen = plans.get_configuration(configuration)
    network: torch.nn.Module = get_network_from_plans(
        chosen.network_arch_class_name,
        chosen.network_arch_init_kwargs,
        chosen.network_arch_init_kwargs_req_import,
        num_channels(dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        allow_init=False,
        deep_supervision=False,
    )
    return network


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
