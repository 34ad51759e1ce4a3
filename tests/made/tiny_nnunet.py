"""A hand-written nnU-Net v2 result folder with random weights: everything about a real one but the
training."""

import json
from pathlib import Path

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

LABELS = {"background": 0, "vertebra": 1, "disc": 2, "canal": 3, "cord": 4, "sacrum": 5}


def tiny_plans(
    patch=(8, 64, 32), spacing=(4.0, 1.6, 1.6), channels=1, transpose=(2, 0, 1), by_torch=False
) -> dict:
    """Plans of a three-stage PlainConvUNet, 2D when the patch has two sizes.

    transpose: by default the network's axes are R, S, A of files that are R, A, S, which nnU-Net reads as S,
    A, R. by_torch: nnU-Net's other planner, which resamples logits by torch.
    """
    resampling = {"force_separate_z": None, "order_z": 0}
    function = "resample_data_or_seg_to_shape"
    kernels, strides = [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    logits = ("resample_torch_fornnunet", {"is_seg": False, "force_separate_z": None})
    if not by_torch:
        logits = (function, {"is_seg": False, "order": 1, **resampling})
    return {
        "dataset_name": "Dataset001_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "NibabelIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(k): {} for k in range(channels)},
        "configurations": {
            "tiny": {
                "data_identifier": "tiny",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "spacing": list(spacing)[-len(patch) :],
                "normalization_schemes": ["ZScoreNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                "resampling_fn_data": function,
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
                "resampling_fn_seg": function,
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
                "resampling_fn_probabilities": logits[0],
                "resampling_fn_probabilities_kwargs": logits[1],
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": 3,
                        "features_per_stage": [4, 8, 16],
                        "conv_op": f"torch.nn.modules.conv.Conv{len(patch)}d",
                        "kernel_sizes": [kernel[-len(patch) :] for kernel in kernels],
                        "strides": [stride[-len(patch) :] for stride in strides],
                        "n_conv_per_stage": [2, 2, 2],
                        "n_conv_per_stage_decoder": [2, 2],
                        "conv_bias": True,
                        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{len(patch)}d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def write_tiny_model(
    folder: Path, *, labels=None, folds=("0",), channels=1, seed=0, **plans
) -> Path:
    """dataset.json, plans.json and fold_X/checkpoint_final.pth, pickled as nnU-Net pickles them."""
    labels = labels or LABELS
    dataset = {
        "channel_names": {str(k): "T2" for k in range(channels)},
        "labels": labels,
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }
    settings = tiny_plans(channels=channels, **plans)
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(settings))
    architecture = settings["configurations"]["tiny"]["architecture"]
    for number, fold in enumerate(folds):
        torch.manual_seed(seed + number)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            len(labels),
            deep_supervision=True,
        )
        (folder / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": network.state_dict(),
                "optimizer_state": {"momentum": torch.zeros(1000)},
                "trainer_name": "nnUNetTrainer_custom",
                "init_args": {"configuration": "tiny"},
                "inference_allowed_mirroring_axes": (0, 1, 2),
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )
    return folder
