"""From checkpoints to models: a trained method back, or a start for another."""

import logging
from collections.abc import Mapping
from types import MappingProxyType

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from amodal_pipeline.annotations import Category
from amodal_pipeline.methods import build
from amodal_pipeline.methods.checkpoints import Checkpoint, Reuse, check_fits
from amodal_pipeline.methods.configs import A3DConfig
from amodal_pipeline.methods.contract import job_name

logger = logging.getLogger(__name__)


def restore(checkpoint: Checkpoint) -> nn.Module:
    """Return the method with the weights of the checkpoint, in evaluation mode, on the CPU.

    Raises:
        ValueError: the weights are of another method than the card's.
    """
    config = without_download(checkpoint.card.method.root)
    model = build(config, len(checkpoint.card.categories))
    check_fits(model, checkpoint.weights, f"the checkpoint of {config.name}")
    model.load_state_dict(checkpoint.weights)
    model.categories = checkpoint.card.categories
    return model.eval()


def without_download(config: BaseModel) -> BaseModel:
    """Return the configuration with no backbone to fetch: the checkpoint has its weights."""
    values = config.model_dump()
    # The normalisation came with the backbone's name and stays; only its weights are dropped.
    if "detector" in values:
        values["detector"]["backbone"]["weights"] = None
    if "encoder" in values:
        values["encoder"]["weights"] = None
    return type(config).model_validate(values)


def start_from(
    model: nn.Module,
    categories: tuple[Category, ...],
    checkpoint: Checkpoint,
    category_names: Mapping[str, str] = MappingProxyType({}),
) -> Reuse:
    """Copy into ``model`` what a checkpoint of this or another method has for it.

    A tensor is taken by its name, or by the name that ``model.pretrained_names`` gives (ORCNN's two
    heads come from Mask R-CNN's one). Where the last layers have one row a category, rows are
    matched by category name; categories that the checkpoint does not know keep their fresh rows.

    Args:
        model: with fresh weights.
        categories: its own, in the order of its rows.
        checkpoint: to start from.
        category_names: what a category is called in the checkpoint, where it is called otherwise;
            names that the checkpoint does not have are passed over with a warning.

    Raises:
        ValueError: the two have nothing in common; both bend meshes, but see them with other
            cameras; their backbones shrink maps at other places; or ``category_names`` names a
            category that the data set does not have.
    """
    if geometry := _other_geometry(getattr(model, "config", None), checkpoint.card.method.root):
        raise ValueError(
            "the pretrained checkpoint's shapes and viewpoints are of another geometry: set "
            f"{geometry}, as it was pretrained with, or set pretrained to null"
        )
    _check_network(getattr(model, "config", None), checkpoint.card.method.root)
    names: Mapping[str, str] = getattr(model, "pretrained_names", {})
    own_names = [c.name for c in categories]
    source_names = [c.name for c in checkpoint.card.categories]
    if strangers := sorted(category_names.keys() - set(own_names)):
        raise ValueError(
            f"the categories to start from name {', '.join(strangers)}, which the data set does "
            f"not have: take from {', '.join(own_names)}"
        )
    if unknown := sorted(set(category_names.values()) - set(source_names)):
        logger.warning(
            "the pretrained checkpoint has no %s: their names are passed over (it has %s)",
            ", ".join(unknown),
            ", ".join(source_names),
        )
    renamed = {own: name for own, name in category_names.items() if name in source_names}
    matched = [renamed.get(name, name) for name in own_names]
    rows = [(i, source_names.index(n)) for i, n in enumerate(matched) if n in source_names]
    state, counts = model.state_dict(), {"copied": 0, "partly": 0, "fresh": 0}
    same_categories, by_category = matched == source_names, False
    for name, tensor in state.items():
        source = checkpoint.weights.get(_source_name(name, names, checkpoint.weights))
        if source is None or source.ndim != tensor.ndim:
            counts["fresh"] += 1
        elif source.shape == tensor.shape and (same_categories or not _by_category(name)):
            state[name] = source
            counts["copied"] += 1
            by_category |= _by_category(name) and tensor.ndim > 1
        elif _by_category(name) and source.shape[1:] == tensor.shape[1:] and rows:
            state[name] = _copy_rows(name, tensor, source, rows)
            counts["partly"] += 1
            by_category |= tensor.ndim > 1  # biases alone are no categories
        else:
            counts["fresh"] += 1
    if counts["copied"] == 0:
        raise ValueError(
            f"the pretrained checkpoint ({checkpoint.card.method.root.name}) shares no weights "
            "with this method: use the same backbone and widths, or set pretrained to null"
        )
    model.load_state_dict(state)
    logger.info(
        "started from %s: %d tensors copied, %d in part (%d of %d categories known), %d fresh",
        checkpoint.card.method.root.name,
        counts["copied"],
        counts["partly"],
        len(rows),
        len(categories),
        counts["fresh"],
    )
    reused = {own_names[own]: source_names[other] for own, other in rows if by_category}
    return Reuse(**counts, categories=reused)


def _other_geometry(own: BaseModel | None, source: BaseModel) -> str:
    """The settings by which the meshes of two methods cannot be one; "" where they can."""
    if not all(isinstance(config, A3DConfig) and config.mesh for config in (own, source)):
        return ""
    differing = [
        name for name in ("camera", "fitted") if getattr(own, name) != getattr(source, name)
    ]
    values = source.model_dump(mode="json")
    return ", ".join(f"a3d.model.{name}={str(values[name]).lower()}" for name in differing)


def _check_network(own: BaseModel | None, source: BaseModel) -> None:
    """Compare what tensors do not tell of a backbone (an error) and of a detector (a warning)."""
    places = [
        next((f"{p}." for p in ("detector.backbone", "encoder") if _value(c, p)), None)
        for c in (own, source)
    ]
    if None not in places:
        place, other = places
        name = _value(source, f"{other}name")
        if _value(own, f"{place}name") != name:
            raise ValueError(
                f"the pretrained checkpoint's backbone is {name}, this one is "
                f"{_value(own, f'{place}name')}, and tensors of the same name would be mixed: set "
                f"{job_name(own)}.model.{place}name={name}, or pretrained to null"
            )
        stride = _value(source, f"{other}stride_in_1x1")
        if _value(own, f"{place}stride_in_1x1") != stride:
            raise ValueError(
                "the pretrained checkpoint's backbone shrinks maps in other convolutions: set "
                f"{job_name(own)}.model.{place}stride_in_1x1={str(stride).lower()}, or pretrained "
                "to null"
            )
    differing = [
        f"{job_name(own)}.model.detector.{name}={str(value).lower()}"
        for name in ("aligned", "sampling_ratio", "batch_norm", "proposals.exact_anchors")
        if (value := _value(source, f"detector.{name}")) is not None
        and _value(own, f"detector.{name}") not in (value, None)
    ]
    if differing:
        logger.warning(
            "the pretrained checkpoint is of a detector with %s: training has to make up for the "
            "difference, or set the same here",
            ", ".join(differing),
        )


def _value(config: BaseModel | None, path: str) -> object:
    """The value at a dotted path of a configuration; None where it has none."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def _by_category(name: str) -> bool:
    layers = ("cls_score", "bbox_pred", "mask_fcn_logits", "category_logits")
    return any(part in name for part in layers) and "rpn" not in name


def _source_name(name: str, aliases: Mapping[str, str], weights: Mapping[str, Tensor]) -> str:
    if name in weights:
        return name
    for own, other in aliases.items():
        if name.startswith(own):
            return other + name.removeprefix(own)
    return name


def _copy_rows(name: str, tensor: Tensor, source: Tensor, rows: list[tuple[int, int]]) -> Tensor:
    result = tensor.clone()
    if "mask_fcn_logits" in name:
        if len(tensor) == 1 or len(source) == 1:  # class-agnostic on either side
            return source.clone() if source.shape == tensor.shape else result
        width, background = 1, 0
    elif "category_logits" in name:
        width, background = 1, 0
    else:
        width, background = (4 if "bbox_pred" in name else 1), 1
        result[:width] = source[:width]
    for own, other in rows:
        a, b = (own + background) * width, (other + background) * width
        result[a : a + width] = source[b : b + width]
    return result


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model on the CPU, detached from it."""
    with torch.no_grad():
        # Whatever the order of the model's own: files hold contiguous tensors.
        plain = torch.contiguous_format
        return {
            name: tensor.detach().cpu().clone(memory_format=plain)
            for name, tensor in model.state_dict().items()
        }
