"""From checkpoints to models: a trained method back, or a start for another."""

import logging
from collections.abc import Mapping

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from amodal_pipeline.annotations import Category
from amodal_pipeline.methods import build
from amodal_pipeline.methods.checkpoints import Checkpoint

logger = logging.getLogger(__name__)


def restore(checkpoint: Checkpoint) -> nn.Module:
    """The method with the weights of the checkpoint, in evaluation mode, on the CPU."""
    config = without_download(checkpoint.card.method.root)
    model = build(config, len(checkpoint.card.categories))
    model.load_state_dict(checkpoint.weights)
    model.categories = checkpoint.card.categories
    return model.eval()


def without_download(config: BaseModel) -> BaseModel:
    """The configuration with no pretrained backbone to fetch: the checkpoint has the weights."""
    values = config.model_dump()
    # The normalisation came with the backbone's name and stays; only its weights are dropped.
    if "detector" in values:
        values["detector"]["backbone"]["weights"] = None
    if "encoder" in values:
        values["encoder"]["weights"] = None
    return type(config).model_validate(values)


def start_from(
    model: nn.Module, categories: tuple[Category, ...], checkpoint: Checkpoint
) -> dict[str, int]:
    """Copy into ``model`` what a checkpoint of this or another method has for it.

    A tensor is taken by its name, or by the name that ``model.pretrained_names`` gives (ORCNN's two
    heads come from Mask R-CNN's one). Where the last layers have one row a category, rows are
    matched by category name; categories that the checkpoint does not know keep their fresh rows.

    Returns:
        How many tensors were "copied", copied "partly" (some categories), or left "fresh".

    Raises:
        ValueError: the two have nothing in common.
    """
    names: Mapping[str, str] = getattr(model, "pretrained_names", {})
    source_names = [c.name for c in checkpoint.card.categories]
    rows = [
        (i, source_names.index(c.name)) for i, c in enumerate(categories) if c.name in source_names
    ]
    state, counts = model.state_dict(), {"copied": 0, "partly": 0, "fresh": 0}
    for name, tensor in state.items():
        source = checkpoint.weights.get(_source_name(name, names, checkpoint.weights))
        same_categories = [c.name for c in categories] == source_names
        if source is None or source.ndim != tensor.ndim:
            counts["fresh"] += 1
        elif source.shape == tensor.shape and (same_categories or not _by_category(name)):
            state[name] = source
            counts["copied"] += 1
        elif _by_category(name) and source.shape[1:] == tensor.shape[1:] and rows:
            state[name] = _copy_rows(name, tensor, source, rows)
            counts["partly"] += 1
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
    return counts


def _by_category(name: str) -> bool:
    return any(part in name for part in ("cls_score", "bbox_pred", "mask_fcn_logits")) and (
        "rpn" not in name
    )


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
    else:
        width, background = (4 if "bbox_pred" in name else 1), 1
        result[:width] = source[:width]
    for own, other in rows:
        a, b = (own + background) * width, (other + background) * width
        result[a : a + width] = source[b : b + width]
    return result


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model on the CPU, detached from it."""
    with torch.no_grad():
        # Whatever the order of the model's own: files hold contiguous tensors.
        plain = torch.contiguous_format
        return {
            name: tensor.detach().cpu().clone(memory_format=plain)
            for name, tensor in model.state_dict().items()
        }
