"""Loading a checkpoint into its own network, or as the start of another method."""

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
    """Return the network of a checkpoint with its weights, in evaluation mode, on the CPU.

    Raises:
        ValueError: the weights do not fit the configuration.
    """
    config = without_download(checkpoint.card.method.root)
    model = build(config, len(checkpoint.card.categories))
    check_fits(model, checkpoint.weights, f"the checkpoint of {config.name}")
    model.load_state_dict(checkpoint.weights)
    model.categories = checkpoint.card.categories
    return model.eval()


def without_download(config: BaseModel) -> BaseModel:
    """Return the configuration without pretrained weights to download for its backbone."""
    values = config.model_dump()
    # The normalisation depends on the backbone's name, which stays.
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
    """Copy the matching weights of a checkpoint, of this or another method, into ``model``.

    Tensors are matched by name, or by the names in ``model.pretrained_names`` (both heads of ORCNN
    start from the one of Mask R-CNN). In layers with one row per category, rows are matched by
    category name; categories that the checkpoint lacks keep their fresh rows.

    Args:
        model: a network with fresh weights.
        categories: its categories, in the order of its rows.
        checkpoint: the checkpoint to start from.
        category_names: names of categories in the checkpoint that differ from those here; names
            that the checkpoint lacks are ignored with a warning.

    Returns:
        How many tensors were copied, and the rows of which categories.

    Raises:
        ValueError: the two share no weights; the cameras of their meshes differ; their backbones
            differ; or ``category_names`` has a category that the data set lacks.
    """
    if geometry := _other_geometry(getattr(model, "config", None), checkpoint.card.method.root):
        raise ValueError(
            "the pretrained checkpoint has another camera, so its shapes and viewpoints mean "
            f"something else here: set {geometry} as in its training, or set pretrained to null"
        )
    _check_network(getattr(model, "config", None), checkpoint.card.method.root)
    names: Mapping[str, str] = getattr(model, "pretrained_names", {})
    own_names = [c.name for c in categories]
    source_names = [c.name for c in checkpoint.card.categories]
    if strangers := sorted(category_names.keys() - set(own_names)):
        raise ValueError(
            f"pretrained_categories has {', '.join(strangers)}, which the data set does not have: "
            f"choose from {', '.join(own_names)}"
        )
    if unknown := sorted(set(category_names.values()) - set(source_names)):
        logger.warning(
            "the pretrained checkpoint has no category %s: pretrained_categories is ignored for "
            "these (it has %s)",
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
            by_category |= tensor.ndim > 1  # a copied bias alone does not count
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
    """Return the settings in which the meshes of two methods differ; "" if they agree."""
    if not all(isinstance(config, A3DConfig) and config.mesh for config in (own, source)):
        return ""
    differing = [
        name for name in ("camera", "fitted") if getattr(own, name) != getattr(source, name)
    ]
    values = source.model_dump(mode="json")
    return ", ".join(f"a3d.model.{name}={str(values[name]).lower()}" for name in differing)


def _check_network(own: BaseModel | None, source: BaseModel) -> None:
    """Check settings that change no tensor's shape: of a backbone (error), a detector (warning)."""
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
                f"{_value(own, f'{place}name')}, and weights of two networks would be mixed: set "
                f"{job_name(own)}.model.{place}name={name}, or pretrained to null"
            )
        stride = _value(source, f"{other}stride_in_1x1")
        if _value(own, f"{place}stride_in_1x1") != stride:
            raise ValueError(
                "the pretrained checkpoint's backbone has its strides in other convolutions: set "
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
            "the pretrained checkpoint comes from a detector with %s: set the same here, or expect "
            "a longer training",
            ", ".join(differing),
        )


def _value(config: BaseModel | None, path: str) -> object:
    """Return the value at a dotted path of a configuration; None if it has no such field."""
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
    """Return a copy of a model's state on the CPU."""
    with torch.no_grad():
        # Safetensors needs contiguous tensors; a model's may be channels_last.
        plain = torch.contiguous_format
        return {
            name: tensor.detach().cpu().clone(memory_format=plain)
            for name, tensor in model.state_dict().items()
        }
