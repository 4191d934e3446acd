"""Small data and small networks that many tests share."""

import os

# Before torch is there: tests run in a process a core, whose threads would stand in line.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal_pipeline.annotations import AmodalAnnotations, Category, build, rle
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import TrainingConfig
from tests.tables import annotations

SIZE = 64
COLOURS = {1: (220, 40, 40), 2: (40, 80, 220)}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> AmodalAnnotations:
    """Eight 64x64 images: a red square in front of a blue one, on grey."""
    return make_shapes(tmp_path_factory.mktemp("shapes"), 8)


def make_shapes(root: Path, count: int) -> AmodalAnnotations:
    draw = np.random.default_rng(0)
    instances = {k: [] for k in ("instance_id", "image_id", "category_id")}
    amodal, visible, order = [], [], []
    for i in range(1, count + 1):
        pixels = np.full((SIZE, SIZE, 3), 128, np.uint8)
        x, y = draw.integers(4, 20, 2)
        back, front = np.zeros((2, SIZE, SIZE), np.uint8)
        back[y : y + 26, x : x + 26] = 1
        front[y + 12 : y + 36, x + 10 : x + 36] = 1
        pixels[back > 0], pixels[front > 0] = COLOURS[2], COLOURS[1]
        Image.fromarray(pixels).save(root / f"{i}.png")
        for name, values in zip(instances, ((2 * i, 2 * i + 1), (i, i), (1, 2)), strict=True):
            instances[name] += values
        order.append((i, 2 * i, 2 * i + 1))
        amodal += [front, back]
        visible += [front, back * (1 - front)]
    return annotations(
        dict.fromkeys(range(1, count + 1), (SIZE, SIZE)),
        {
            **instances,
            "amodal_rle": rle.encode(np.stack(amodal)),
            "visible_rle": rle.encode(np.stack(visible)),
        },
        order,
        dataset="shapes",
        split="train",
        categories=[Category(id=1, name="red"), Category(id=2, name="blue")],
        image_root=str(root),
    )


CLIP_SIZE = (48, 64)  # height, width


@pytest.fixture(scope="session")
def moving(tmp_path_factory) -> AmodalAnnotations:
    """Two videos of a blue square that moves behind a red pillar, see :func:`make_moving`."""
    return make_moving(tmp_path_factory.mktemp("moving"))


def make_moving(root: Path, frames: int = 9) -> AmodalAnnotations:
    """Video 1: ``frames`` frames, in some of which the square is hidden; a red one is in the first
    three only. Video 2: four frames, in which the square grows.

    Tracks 1 and 2 are square and pillar of the first video, 3 the red one, 4 and 5 those of the
    second.
    """
    images = {k: [] for k in ("image_id", "file_name", "height", "width", "video_id", "frame")}
    instances = {k: [] for k in ("instance_id", "image_id", "category_id", "track_id")}
    amodal, visible, order = [], [], {"image_id": [], "occluder_id": [], "occludee_id": []}
    for video, length in ((1, frames), (2, 4)):
        for frame in range(length):
            image_id = 100 * video + frame
            square, pillar, extra = np.zeros((3, *CLIP_SIZE), np.uint8)
            x, side = (4 + 5 * frame, 10) if video == 1 else (8 + frame, 12 + 6 * frame)
            square[14 : 14 + side, x : x + side] = 1
            pillar[4:44, 24:40] = 1
            extra[36:46, 4 + frame : 16 + frame] = 1
            pixels = np.full((*CLIP_SIZE, 3), 128, np.uint8)
            pixels[square > 0], pixels[pillar > 0] = COLOURS[2], COLOURS[1]
            Image.fromarray(pixels).save(root / f"{image_id}.png")
            values = (image_id, f"{image_id}.png", *CLIP_SIZE, video, frame)
            for name, value in zip(images, values, strict=True):
                images[name].append(value)
            shown = [(3 * video - 2, 2, square, square * (1 - pillar))]
            shown.append((3 * video - 1, 1, pillar, pillar))
            if video == 1 and frame < 3:
                shown.append((3, 1, extra, extra))
            for track, category, whole, seen in shown:
                values = (10 * image_id + track, image_id, category, track)
                for name, value in zip(instances, values, strict=True):
                    instances[name].append(value)
                amodal.append(whole)
                visible.append(seen)
            if (square & pillar).any():
                values = (image_id, 10 * image_id + 3 * video - 1, 10 * image_id + 3 * video - 2)
                for name, value in zip(order, values, strict=True):
                    order[name].append(value)
    return build(
        dataset="moving",
        split="train",
        categories=[Category(id=1, name="red"), Category(id=2, name="blue")],
        image_root=str(root),
        images=images,
        instances={
            **instances,
            "amodal_rle": rle.encode(np.stack(amodal)),
            "visible_rle": rle.encode(np.stack(visible)),
        },
        order=order,
    )


TINY_DETECTOR = {
    "backbone": {
        "name": "resnet18",
        "weights": None,
        "frozen_stages": 0,
        "pyramid_channels": 16,
    },
    "proposals": {
        "anchor_sizes": [16, 24, 32, 48, 64],
        "samples_per_image": 64,
        "before_nms_train": 100,
        "before_nms_test": 100,
        "after_nms_train": 50,
        "after_nms_test": 50,
    },
    "box_head": {"channels": 32, "samples_per_image": 32, "detections_per_image": 20},
    "min_size": 64,
    "max_size": 64,
}
TINY_VRSP = {"neighbours": 4, "reclassifier_channels": 32, "prior": {"clusters": 8}}
TINY_SLN = {
    "encoder": {"name": "resnet18", "weights": None, "frozen_batch_norm": True},
    "stride": 4,
    "width": 16,
    "layers": 3,
    "global_channels": 8,
    "instance_channels": 16,
    "roi_size": 14,
    **{name: TINY_DETECTOR[name] for name in ("proposals", "box_head", "min_size", "max_size")},
}
TINY_METHODS = {
    "mask_rcnn": {"name": "mask_rcnn"},
    "mask_rcnn_visible": {"name": "mask_rcnn", "boxes": "visible", "masks": "visible"},
    "orcnn": {"name": "orcnn"},
    "orcnn_independent": {"name": "orcnn", "independent": True},
    "orcnn_class_agnostic": {"name": "orcnn"},
    "vrsp": {"name": "vrsp", **TINY_VRSP},
    "vrsp_released": {
        "name": "vrsp",
        **TINY_VRSP,
        "true_attention": True,
        "prior_input": "logits",
        "reclassification_weighting": True,
        "reclassification_input": "logits",
        "reclassification_true_weight": 0.1,
        "all_channel_weighting": True,
        "reclassification_score": "released",
        "geometric_mean": True,
    },
    "vrsp_without_prior": {
        "name": "vrsp",
        "attention": "self",
        "prior_refinement": False,
        "prior_post_process": False,
        "reclassification": False,
    },
    "aisformer": {"name": "aisformer", "feedforward": 32},
    "aisformer_variants": {
        "name": "aisformer",
        "feedforward": 32,
        "tokens": 14,
        "layers": 2,
        "convolutions": 2,
        "pixel_convolutions": 1,
        "invisible_embedding": False,
        "occluders": "in_front",
        "occluder_gate": 0.05,
        "occluder_balance": True,
    },
    "bcnet": {"name": "bcnet"},
    "bcnet_variants": {
        "name": "bcnet",
        "graph": False,
        "boundaries": False,
        "occluder_masks": "visible",
        "occluder_balance": True,
    },
    "sln": {"name": "sln", **TINY_SLN},
    "sln_with_classes": {
        "name": "sln",
        **TINY_SLN,
        "classes": True,
        "layer_activation": "sigmoid",
        "global_input": "image",
        "expected_level": True,
        "confidence": "any",
    },
    "sln_without_parts": {
        "name": "sln",
        **TINY_SLN,
        "classes": True,
        "global_module": False,
        "refinement": False,
    },
}
TINY_A3D = {
    "name": "a3d",
    "crop": {"around": "amodal", "enlarge": 1.0, "clipped": False, "side": 20, "image_side": 20},
    "channels": [8, 8, 8],
    "hidden": [16],
    "code": 12,
    "decoder": [16],
    "subdivisions": 1,
    "refinement_channels": 4,
}
TINY_TOKENIZER = {
    "crop": {"side": 16, "image_side": 16},
    "channels": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "codes": 8,
    "code_size": 4,
}
TINY_PLAIN = {
    "name": "plain_completer",
    "encoder": {"name": "test_efficientnet", "weights": None},
    "crop": {"side": 32, "image_side": 32},
    "shared": [8, 8],
    "branch": [8, 8, 4],
    "last": 4,
    "skips": True,
}
TINY_COMPLETERS = {
    "plain_completer": TINY_PLAIN,
    "a3d": TINY_A3D,
    "a3d_softras": {**TINY_A3D, "camera": "softras", "fitted": True},
    "a3d_without_parts": {**TINY_A3D, "mesh": False, "refinement": False},
}


# Of methods that learn from clips.
TINY_CLIPS = {
    "name": "c2f_seg_video",
    "encoder": {"name": "test_resnet", "weights": None, "frozen_batch_norm": True},
    "crop": {"side": 32, "image_side": 64},
    "tokenizer": {
        "crop": {"side": 32},
        "channels": 8,
        "multipliers": [1, 2, 2, 2],
        "blocks": 1,
        "codes": 16,
        "code_size": 8,
        "adversarial": 0,
    },
    "width": 16,
    "layers": 3,
    "heads": 2,
    "frames": 8,
    "window_places": 2,
    "refinement_channels": [8, 8, 8, 4, 4],
}

# Its rivals.
TINY_RIVALS = {
    "mask_unet_video": {
        "name": "mask_unet_video",
        "crop": {"side": 32, "image_side": 32},
        "channels": [4, 8, 8],
        "frames": 6,
    },
    "pcnet_m": {
        "name": "pcnet_m",
        "crop": {
            "enlarge": 1.1,
            "square": "by_area",
            "clipped": False,
            "side": 32,
            "image_side": 32,
        },
        "width": 0.25,
    },
    "savos": {
        "name": "savos",
        "crop": {"enlarge": 1.5, "side": 32, "image_side": 32},
        "channels": [4, 4, 8, 8, 8, 16],
        "flow_channels": [4, 4, 8, 8, 8, 16],
        "width": 16,
        "training_tracks": None,
        "frames": 5,
    },
}


def tiny_method(name: str):
    """The configuration of a method small enough to train in a test."""
    if name in TINY_RIVALS:
        return MethodConfig.model_validate(TINY_RIVALS[name]).root
    if name == "c2f_seg_video":
        return MethodConfig.model_validate(TINY_CLIPS).root
    if name in TINY_COMPLETERS:
        return MethodConfig.model_validate(TINY_COMPLETERS[name]).root
    head = {"convolutions": 2, "channels": 16, "class_agnostic": name.endswith("class_agnostic")}
    values = TINY_METHODS[name]
    if values["name"] in ("aisformer", "bcnet"):
        values = {**values, "detector": TINY_DETECTOR}
    elif values["name"] != "sln":
        values = {**values, "detector": TINY_DETECTOR, "mask_head": head}
    return MethodConfig.model_validate(values).root


def tiny_training(**changes) -> TrainingConfig:
    """A training of six iterations."""
    values = {
        "iterations": 6,
        "batch_size": 2,
        "learning_rate": 0.01,
        "schedule": "cosine",
        "warmup_iterations": 2,
        "augmentation": {"flip": 0.5, "min_sizes": [48, 64], "max_size": 64},
        "checkpoint_every": 2,
        "log_every": 1,
        "workers": 0,
        "device": "cpu",
        "precision": "float32",  # on every processor
    }
    return TrainingConfig.model_validate({**values, **changes})
