"""A shape prior on disk: a folder with ``shape_prior.safetensors`` and ``shape_prior.json``.

torch is imported when weights are read or written: Kedro's nodes name these classes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from amodal_pipeline.annotations import AmodalAnnotations, Category
from amodal_pipeline.annotations.storage import recover, replacing
from amodal_pipeline.methods.checkpoints import (
    DamagedError,
    DivergedError,
    Fingerprint,
    check_fits,
    not_finite,
    read_card,
    read_together,
    write_card,
)
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
    was learnt from. ``sha256``: see :func:`~..checkpoints.write_card`; empty in memory.
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
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class StoredShapePrior:
    """A shape prior: its card, and its weights and entries on the CPU."""

    card: ShapePriorCard
    weights: dict[str, Tensor]

    def restore(self) -> ShapePrior:
        """Return the module, in evaluation mode."""
        from amodal_pipeline.methods.vrsp.codebook import ShapePrior

        prior = ShapePrior(self.card.config, len(self.card.categories))
        check_fits(prior, self.weights, "the shape prior")
        prior.load_state_dict(self.weights)
        return prior.eval()

    def save(self, folder: str | os.PathLike) -> None:
        """Write ``folder``, which is replaced as a whole or not at all.

        Raises:
            DivergedError: a value is not a finite number; nothing was written.
            OSError: the disk is full; what was there before is intact.
        """
        from safetensors.torch import save_file

        if found := not_finite(self.weights):
            raise DivergedError(
                f"the shape prior was not saved to {folder}: {found}. The auto-encoder has "
                "diverged: lower shape_prior.learning_rate and make it again"
            )
        with replacing(folder) as temporary:
            temporary.mkdir()
            weights = temporary / "shape_prior.safetensors"
            save_file({k: v.contiguous() for k, v in self.weights.items()}, weights)
            write_card(temporary / "shape_prior.json", self.card, weights)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> StoredShapePrior:
        """Read what :meth:`save` wrote, also while another process replaces it.

        Raises:
            ValueError: a file is missing, damaged, or not of the other; names it and the remedy.
        """
        recover(folder)
        card_file, weights_file = (
            Path(folder) / f"shape_prior.{s}" for s in ("json", "safetensors")
        )
        try:
            stored = cls(*read_together(card_file, weights_file, ShapePriorCard))
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder} holds no shape prior ({Path(error.filename).name} is missing): make one "
                "with `kedro run --pipeline=shape_prior`"
            ) from error
        except DamagedError as error:
            raise ValueError(_damaged(error)) from error
        counted = tuple(stored.restore().count.tolist())
        if counted != stored.card.entries:
            raise ValueError(
                _damaged(
                    f"{weights_file} has {counted} entries by category, its card "
                    f"{stored.card.entries}"
                )
            )
        return stored


def load_card(folder: str | os.PathLike) -> ShapePriorCard:
    """Return the card alone.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    recover(folder)
    try:
        return read_card(Path(folder) / "shape_prior.json", ShapePriorCard)[0]
    except DamagedError as error:
        raise ValueError(_damaged(error)) from error


def _damaged(reason: object) -> str:
    return (
        f"the shape prior is damaged or of another version: {reason}. Make it again with "
        "`kedro run --pipeline=shape_prior --params restart=true`"
    )
