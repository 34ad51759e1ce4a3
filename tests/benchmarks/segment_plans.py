"""Plans of the networks of the segmentation benchmarks. Light: `segment_memory` counts what is imported."""

from __future__ import annotations

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from spineage.science.spine.labels import SEMANTIC

NUM_CLASSES = 26
SMALL = (8, 16, 32, 64)
PLANNED = (32, 64, 128, 256, 320, 320)
CONFIGURATION = "bench"


def plans_of(features: tuple[int, ...], in_plane_mm: float) -> PlansManager:
    """Plans of a PlainConvUNet for scans of 4 mm slices, patch 16 x 256 x 128."""
    deep = len(features) - 4
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], *[[1, 2, 2]] * deep]
    resampling = {"force_separate_z": None, "order_z": 0}
    function = "resample_data_or_seg_to_shape"
    normal = {"eps": 1e-5, "affine": True}
    return PlansManager({
        "dataset_name": "Dataset901_Bench", "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
        "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {CONFIGURATION: {
            "data_identifier": CONFIGURATION, "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2, "patch_size": [16, 256, 128], "spacing": [4.0, in_plane_mm, in_plane_mm],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
            "batch_dice": False,
            "resampling_fn_data": function,
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
            "resampling_fn_seg": function,
            "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
            "resampling_fn_probabilities": function,
            "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                "arch_kwargs": {
                    "n_stages": len(features), "features_per_stage": list(features),
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * (len(features) - 1)],
                    "strides": strides, "n_conv_per_stage": [2] * len(features),
                    "n_conv_per_stage_decoder": [2] * (len(features) - 1), "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": normal, "dropout_op": None, "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
                },
            },
        }},
    })  # fmt: skip


def dataset_of(num_classes: int = NUM_CLASSES) -> dict[str, object]:
    """The tissues of the phantom, and classes that are never seen."""
    unseen = {f"unseen_{k}": k for k in range(len(SEMANTIC), num_classes)}
    return {
        "channel_names": {"0": "T2"},
        "labels": {**SEMANTIC, **unseen},
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }
