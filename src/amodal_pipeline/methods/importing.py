"""Import of other libraries' weights: Mask R-CNN of torchvision and of detectron2."""

import logging
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import (
    MaskRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
)

from amodal_pipeline.annotations import Category, restricted_pickle
from amodal_pipeline.annotations.storage import checksum
from amodal_pipeline.layers.backbone import normalisation
from amodal_pipeline.layers.weight_files import read_tensors
from amodal_pipeline.methods import build
from amodal_pipeline.methods.checkpoints import (
    Checkpoint,
    Fingerprint,
    MethodCard,
    git_revision,
    versions,
)
from amodal_pipeline.methods.configs import MaskRCNNConfig
from amodal_pipeline.methods.pretrained import weights_of
from amodal_pipeline.methods.registry import MethodConfig

logger = logging.getLogger(__name__)

Library = Literal["torchvision", "detectron2"]

EPSILON = 1e-5  # added to variances in batch normalisation by this project
COCO: tuple[str, ...] = tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""COCO's categories by id, 0 to 90, as torchvision names them; eleven ids are "N/A"."""

# ResNets by the blocks of their third stage and whether these are bottlenecks.
_RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}
# Prefixes of torchvision's names and ours; the first that matches is used.
_OURS = {
    "backbone.body.": "detector.backbone.body.",
    "backbone.fpn.": "detector.backbone.pyramid.",
    "rpn.": "detector.rpn.",
    "roi_heads.mask_head.": "mask_head.layers.",
    "roi_heads.mask_predictor.": "mask_head.predictor.",
    "roi_heads.": "detector.roi_heads.",
}
# detectron2's names and torchvision's; {1} and {2} are the first number of the match minus 1 or 2.
_TORCHVISION: tuple[tuple[str, str], ...] = (
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.body.bn1."),
    (r"backbone\.bottom_up\.stem\.conv1\.", "backbone.body.conv1."),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.",
        r"backbone.body.layer{1}.\2.downsample.1.",
    ),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.",
        r"backbone.body.layer{1}.\2.downsample.0.",
    ),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.", r"backbone.body.layer{1}.\2.bn\3."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.", r"backbone.body.layer{1}.\2.conv\3."),
    (r"backbone\.fpn_lateral(\d)\.", "backbone.fpn.inner_blocks.{2}.0."),
    (r"backbone\.fpn_output(\d)\.", "backbone.fpn.layer_blocks.{2}.0."),
    (r"proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"roi_heads\.box_head\.fc1\.", "roi_heads.box_head.fc6."),
    (r"roi_heads\.box_head\.fc2\.", "roi_heads.box_head.fc7."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", "roi_heads.mask_head.{1}.0."),
    (r"roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    (r"(roi_heads\.box_predictor\.(?:cls_score|bbox_pred)\.)", r"\1"),
)
# Constants that some versions of detectron2 store with the weights.
_CONSTANTS = re.compile(r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\..*")


def import_detector(
    library: Library,
    file: str | os.PathLike,
    categories: Sequence[str] | None = None,
    batch_norm_epsilon: float | None = None,
) -> Checkpoint:
    """Return another library's Mask R-CNN as a checkpoint of ``mask_rcnn`` on visible masks.

    It gives the same detections as in the library, and all detectors can start from it. Images are
    RGB in 0–1 as for torchvision; detectron2's order of channels and scale of the input are moved
    into the first convolution.

    Args:
        library: "torchvision": ``maskrcnn_resnet50_fpn`` or ``maskrcnn_resnet50_fpn_v2``, or one
            with another ResNet; "detectron2": a Mask R-CNN with a ResNet of 50, 101 or 152 layers
            and a feature pyramid, as in its model zoo (images in BGR, strides in 1x1
            convolutions).
        file: the state dict, as .safetensors, PyTorch file (read with ``weights_only``) or
            detectron2's .pkl; or a dict that contains it as "model" or "state_dict".
        categories: category names in the order of the file's classes, without background. By
            default COCO's if there are 90 or 80 classes, else numbers.
        batch_norm_epsilon: what the library adds to variances; by default 0 for torchvision's
            published v1 (COCO's 90 classes, frozen batch normalisation), else 1e-5.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds other data than tensors, or another network; names the fault.
    """
    file = Path(file).expanduser()
    state = _tensors(file)
    try:
        state = _from_detectron2(state) if library == "detectron2" else _from_torchvision(state)
        classes = len(state["roi_heads.box_predictor.cls_score.weight"]) - 1
        method = _method(state, library)
    except KeyError as error:
        raise ValueError(
            f"{file} is not a Mask R-CNN of {library} with a feature pyramid: it has no "
            f"{error.args[0]}"
        ) from error
    if batch_norm_epsilon is None:
        batch_norm_epsilon = 0.0 if _is_published_v1(state, library, classes) else EPSILON
    state = _with_epsilon(state, batch_norm_epsilon)
    model = build(method, classes)
    ours = {_renamed(name): tensor for name, tensor in state.items()}
    _load(model, ours, file)
    logger.info("%s: all of %d tensors taken", file, len(ours))
    card = MethodCard(
        method=MethodConfig(method),
        categories=_categories(classes, categories, file),
        dataset="coco",
        fingerprint=Fingerprint.of(
            imported=library,
            file=checksum(file),
            model=method.model_dump(),
            categories=",".join(categories or ()),
        ),
        iterations=0,
        seed=0,
        git_revision=git_revision(),
        versions=versions(),
    )
    return Checkpoint(card, weights_of(model))


def published_detector() -> Checkpoint:
    """Return torchvision's ``maskrcnn_resnet50_fpn_v2``, trained on COCO, as a checkpoint.

    The file is taken from torchvision's own folder of downloads, where it is downloaded to once.

    Raises:
        ValueError: it is not there and cannot be downloaded; says where to put it.
    """
    url = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url
    file = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlsplit(url).path).name)
    if not file.is_file():
        logger.info("torchvision's Mask R-CNN is downloaded once, 180 MB: %s", url)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = file.stem.rpartition("-")[2]  # the first digits of its SHA-256
            torch.hub.download_url_to_file(url, os.fspath(file), hash_prefix=digest)
        except (OSError, HTTPException, RuntimeError) as error:  # also of another checksum
            raise ValueError(
                f"torchvision's Mask R-CNN cannot be downloaded here ({error}). On a machine with "
                f"a network get {url} and put it at {file}; or name any Mask R-CNN of torchvision: "
                "kedro run --pipeline=import_detector --params from=torchvision,file=<file>; or "
                "give the visible masks of objects yourself (docs/completing.md)"
            ) from error
    return import_detector("torchvision", file)


def _tensors(file: Path) -> dict[str, Tensor]:
    """Return a file's state dict with floating-point numbers as float32; runs no code in it."""
    if not file.is_file():
        raise FileNotFoundError(f"the file of weights {file} does not exist: check its path")
    state = _arrays(file) if file.suffix == ".pkl" else read_tensors(file)
    return {n: v.float() if v.is_floating_point() else v for n, v in state.items()}


def _arrays(file: Path) -> dict[str, Tensor]:
    """Return the arrays in a pickle of detectron2, which has them as "model"."""
    try:
        found = restricted_pickle.load(file)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{file} is damaged, or holds other objects than arrays, which are not read: save the "
            "model's state_dict() with safetensors or torch.save"
        ) from error
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        found = found["model"]
    if not isinstance(found, Mapping) or not found:
        raise ValueError(
            f"{file} is not a state dict, but a {type(found).__name__}: save the model's "
            "state_dict()"
        )
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, np.ndarray)):
            raise ValueError(
                f"{file} is not a state dict: {name!r} is of type {type(value).__name__}, not an "
                "array: save the model's state_dict()"
            )
    return {name: torch.from_numpy(value) for name, value in found.items()}


def _from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's state without the background channel of the mask predictor."""
    masks = "roi_heads.mask_predictor.mask_fcn_logits."
    return {n: v[1:] if n.startswith(masks) else v for n, v in state.items()}


def _from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return detectron2's state with torchvision's names, order of classes and input."""
    renamed = {
        _as_torchvision(name): tensor
        for name, tensor in state.items()
        if not _CONSTANTS.fullmatch(name)
    }
    classes = len(renamed["roi_heads.box_predictor.cls_score.weight"]) - 1
    for kind in ("weight", "bias"):
        scores = f"roi_heads.box_predictor.cls_score.{kind}"
        renamed[scores] = renamed[scores].roll(1, dims=0)  # detectron2's background is last
        boxes = f"roi_heads.box_predictor.bbox_pred.{kind}"
        if len(renamed[boxes]) == 4:  # one box for all classes
            renamed[boxes] = torch.cat([renamed[boxes]] * classes)
        background = torch.zeros_like(renamed[boxes][:4])
        renamed[boxes] = torch.cat([background, renamed[boxes]])
    # Images are BGR in 0-255, minus the same means as torchvision's; some models divide by a
    # standard deviation, which is then in the file.
    std = state.get("pixel_std", torch.ones(3)).flatten()
    scale = 255 * torch.tensor(normalisation("resnet50")[1]) / std.flip(0)
    first = renamed["backbone.body.conv1.weight"]
    renamed["backbone.body.conv1.weight"] = first.flip(1) * scale[:, None, None]
    return renamed


def _as_torchvision(name: str) -> str:
    for pattern, ours in _TORCHVISION:
        if found := re.match(pattern, name):
            for less in (1, 2):
                if f"{{{less}}}" in ours:
                    ours = ours.replace(f"{{{less}}}", str(int(found[1]) - less))
            return found.expand(ours) + name[found.end() :]
    raise KeyError(f"place for {name}")


def _method(state: Mapping[str, Tensor], library: Library) -> MaskRCNNConfig:
    """Return the configuration of the network of a state with torchvision's names."""

    def convolutions(prefix: str) -> int:
        return sum(n.startswith(prefix) and v.ndim == 4 for n, v in state.items())

    stage = "backbone.body.layer3."
    blocks = {name.removeprefix(stage).split(".")[0] for name in state if name.startswith(stage)}
    kind = len(blocks), f"{stage}0.conv3.weight" in state
    if kind not in _RESNETS:
        raise KeyError(f"ResNet of 18, 34, 50, 101 or 152 layers ({kind[0]} blocks in layer3)")
    box_convolutions = convolutions("roi_heads.box_head.")
    box = str(box_convolutions + 1) if box_convolutions else "fc6"  # after one that flattens
    masks = state["roi_heads.mask_predictor.mask_fcn_logits.weight"]
    detectron2 = library == "detectron2"
    beta = 0.0 if detectron2 else 1 / 9
    return MaskRCNNConfig.model_validate(
        {
            "boxes": "visible",
            "masks": "visible",
            "detector": {
                "backbone": {
                    "name": _RESNETS[kind],
                    "weights": None,
                    "pyramid_channels": state["rpn.head.cls_logits.weight"].shape[1],
                    "stride_in_1x1": detectron2,
                },
                "aligned": detectron2,
                "sampling_ratio": 0 if detectron2 else 2,
                "batch_norm": any("running_var" in n for n in state if "backbone.fpn." in n),
                "proposals": {
                    "convolutions": convolutions("rpn.head.conv."),
                    "exact_anchors": detectron2,
                    "after_nms_train": 1000 if detectron2 else 2000,
                    "box_loss_beta": beta,
                },
                "box_head": {
                    "channels": len(state[f"roi_heads.box_head.{box}.weight"]),
                    "convolutions": box_convolutions,
                    "samples_per_image": 512,
                    "box_loss_beta": beta,
                    "initialisation": "detectron" if detectron2 else "torchvision",
                },
                "max_size": 1333,
            },
            "mask_head": {
                "convolutions": convolutions("roi_heads.mask_head."),
                "channels": masks.shape[1],
                "class_agnostic": len(masks) == 1,
                "batch_norm": any("mask_head" in n and "running_var" in n for n in state),
            },
        }
    )


def _is_published_v1(state: Mapping[str, Tensor], library: Library, classes: int) -> bool:
    # Frozen batch normalisation has no counter of batches.
    frozen = not any(name.endswith("num_batches_tracked") for name in state)
    return library == "torchvision" and classes == len(COCO) - 1 and frozen


def _with_epsilon(state: Mapping[str, Tensor], epsilon: float) -> dict[str, Tensor]:
    """Return the state with variances that compensate for our epsilon."""
    if epsilon == EPSILON:
        return dict(state)
    return {
        name: tensor.double().add(epsilon - EPSILON).float() if "running_var" in name else tensor
        for name, tensor in state.items()
    }


def _renamed(name: str) -> str:
    for theirs, ours in _OURS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _load(model: torch.nn.Module, state: dict[str, Tensor], file: Path) -> None:
    try:
        # torchvision's layers also accept the names in its older files.
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{file} is of another network: {error}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    for names, fault in ((missing, "lacks"), (unexpected, "has also")):
        if names:
            raise ValueError(
                f"{file} is of another network: it {fault} {', '.join(names[:3])} "
                f"({len(names)} tensors in all)"
            )


def _categories(classes: int, names: Sequence[str] | None, file: Path) -> tuple[Category, ...]:
    by_id = dict(enumerate(COCO))
    real = {i: name for i, name in by_id.items() if name not in ("__background__", "N/A")}
    if names is not None:
        if len(names) != classes:
            raise ValueError(
                f"{file} has {classes} classes, but categories has {len(names)} names: give one "
                "name per class, without background"
            )
        by_id = dict(enumerate(names, 1))
    elif classes == len(real):
        by_id = real
    elif classes == len(by_id) - 1:
        by_id = {i: real.get(i, f"N/A {i}") for i in by_id if i}
    else:
        logger.warning(
            "%s has %d classes without names: they are numbered, and a method that starts from it "
            "does not copy their weights. Name them with the parameter categories",
            *(file, classes),
        )
        by_id = {i: f"class {i}" for i in range(1, classes + 1)}
    return tuple(Category(id=i, name=name) for i, name in by_id.items())
