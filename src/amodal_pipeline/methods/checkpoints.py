"""Trained methods on disk: a folder with ``model.safetensors`` and ``method.json``. No pickle."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amodal_pipeline.annotations import Category
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.methods import build
from amodal_pipeline.methods.configs import MethodConfig

logger = logging.getLogger(__name__)


class Fingerprint(BaseModel):
    """Everything that decides what a training gives: equal parts, equal weights.

    ``parts`` maps a name ("model.mask_head.channels", "annotations_train", …) to its value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    parts: dict[str, str]

    @classmethod
    def of(cls, **values: object) -> "Fingerprint":
        """Flatten configurations and names into parts."""
        parts: dict[str, str] = {}
        for name, value in values.items():
            _flatten(name, value.model_dump() if isinstance(value, BaseModel) else value, parts)
        return cls(parts=parts)

    @property
    def digest(self) -> str:
        text = json.dumps(self.parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: "Fingerprint") -> list[str]:
        """Lines "name: theirs -> ours" for each part in which ``other`` differs from this one."""
        names = sorted(self.parts.keys() | other.parts.keys())
        return [
            f"{n}: {other.parts.get(n, 'absent')} -> {self.parts.get(n, 'absent')}"
            for n in names
            if self.parts.get(n) != other.parts.get(n)
        ]


class MethodCard(BaseModel):
    """What a checkpoint is: the method, what it was trained on, and with which code."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: MethodConfig
    categories: tuple[Category, ...]
    dataset: str
    fingerprint: Fingerprint
    iterations: int
    seed: int
    git_revision: str = "unknown"
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Checkpoint:
    """A trained method: its card and its weights on the CPU."""

    card: MethodCard
    weights: dict[str, Tensor]

    def save(self, folder: str | os.PathLike) -> None:
        """Write both files; each is replaced as a whole, the card last."""
        folder = Path(folder)
        with replacing(folder / "model.safetensors") as path:
            save_file({k: v.contiguous() for k, v in self.weights.items()}, path)
        with replacing(folder / "method.json") as path:
            path.write_text(self.card.model_dump_json(indent=2))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Checkpoint":
        """Read a checkpoint.

        Raises:
            ValueError: a file is missing or damaged; names it and says how to get it again.
        """
        folder = Path(folder)
        try:
            card = MethodCard.model_validate_json((folder / "method.json").read_bytes())
            weights = load_file(folder / "model.safetensors")
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} holds no trained method ({Path(error.filename or '').name} is missing): "
                "train one with `kedro run --pipeline=train_<method>`"
            ) from error
        except (ValidationError, SafetensorError) as error:
            raise ValueError(
                f"the checkpoint in {folder} is damaged or of another version: {error}\n"
                "train it again with --params restart=true"
            ) from error
        return cls(card, weights)


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
    if "detector" in values:
        # The normalisation came with the backbone's name and stays; only its weights are dropped.
        values["detector"]["backbone"]["weights"] = None
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


def _copy_rows(
    name: str, tensor: Tensor, source: Tensor, rows: list[tuple[int, int]]
) -> Tensor:
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


def _flatten(name: str, value: object, parts: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, parts)
    else:
        parts[name] = str(value)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model on the CPU, detached from it."""
    with torch.no_grad():
        return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
