"""A shape prior on disk: a folder with ``shape_prior.safetensors`` and ``shape_prior.json``.

torch is imported when weights are read or written: Kedro's nodes name these classes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from amodal_pipeline.annotations import AmodalAnnotations, Category
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.methods.checkpoints import Fingerprint
from amodal_pipeline.methods.configs import ShapePriorConfig

if TYPE_CHECKING:
    from torch import Tensor

    from amodal_pipeline.methods.vrsp.codebook import ShapePrior


def fingerprint(
    config: ShapePriorConfig, annotations: AmodalAnnotations, predicted_by: str = "none"
) -> Fingerprint:
    """What decides a shape prior: configuration, training split, and the digest of the checkpoint
    that predicted masks come from."""
    return Fingerprint.of(
        shape_prior=config.model_dump(),
        annotations_train=annotations.fingerprint,
        predicted_by=predicted_by,
    )


class ShapePriorCard(BaseModel):
    """What a shape prior is and was made from.

    Category i has the first ``entries[i]`` of ``codes[i]`` in the codebook. ``masks``: how many it
    was learnt from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    config: ShapePriorConfig
    categories: tuple[Category, ...]
    entries: tuple[int, ...]
    masks: int
    dataset: str
    fingerprint: Fingerprint
    git_revision: str = "unknown"
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class StoredShapePrior:
    """A shape prior: its card, and its weights and entries on the CPU."""

    card: ShapePriorCard
    weights: dict[str, Tensor]

    def restore(self) -> ShapePrior:
        """The module, in evaluation mode."""
        from amodal_pipeline.methods.vrsp.codebook import ShapePrior

        prior = ShapePrior(self.card.config, len(self.card.categories))
        prior.load_state_dict(self.weights)
        return prior.eval()

    def save(self, folder: str | os.PathLike) -> None:
        """Write ``folder``, which is replaced as a whole or not at all."""
        from safetensors.torch import save_file

        with replacing(folder) as temporary:
            temporary.mkdir()
            weights = {k: v.contiguous() for k, v in self.weights.items()}
            save_file(weights, temporary / "shape_prior.safetensors")
            card = self.card.model_dump_json(indent=2)
            (temporary / "shape_prior.json").write_text(card)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> StoredShapePrior:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: a file is missing, damaged, or not of the other; names it and the remedy.
        """
        from safetensors.torch import load_file

        weights_file = Path(folder) / "shape_prior.safetensors"
        try:
            card = load_card(folder)
            weights = load_file(weights_file)
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} holds no shape prior ({Path(error.filename or weights_file).name} is "
                "missing): make one with `kedro run --pipeline=shape_prior`"
            ) from error
        except SafetensorError as error:
            raise ValueError(_damaged(weights_file, error)) from error
        stored = cls(card, weights)
        try:
            counted = tuple(stored.restore().count.tolist())
        except RuntimeError as error:
            raise ValueError(_damaged(weights_file, error)) from error
        if counted != card.entries:
            reason = f"it has {counted} entries by category, its card {card.entries}"
            raise ValueError(_damaged(weights_file, reason))
        return stored


def load_card(folder: str | os.PathLike) -> ShapePriorCard:
    """The card alone.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    path = Path(folder) / "shape_prior.json"
    try:
        return ShapePriorCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(_damaged(path, error)) from error


def _damaged(path: Path, reason: object) -> str:
    return (
        f"{path} is damaged or of another version ({reason}): make the shape prior again with "
        "`kedro run --pipeline=shape_prior --params restart=true`"
    )
