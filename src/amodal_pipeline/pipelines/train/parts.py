"""Finished parts that methods are trained with: VRSP's shape prior, C2F-Seg's mask tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from amodal_pipeline.methods.checkpoints import Checkpoint, MethodCard
from amodal_pipeline.methods.configs import AnyMethod, C2FSegConfig, VRSPConfig
from amodal_pipeline.methods.vrsp.stored import ShapePriorCard, StoredShapePrior

if TYPE_CHECKING:
    from amodal_pipeline.training.loop import Component


@dataclass(frozen=True)
class Parts:
    """The parts of a data set; None where it has none, or none is needed."""

    shape_prior: StoredShapePrior | None = None
    tokenizer: Checkpoint | None = None

    def complete(self, method: AnyMethod) -> AnyMethod:
        """As :func:`with_forms`, with the forms of these parts."""
        return with_forms(
            method,
            self.shape_prior.card if self.shape_prior else None,
            self.tokenizer.card if self.tokenizer else None,
        )

    def components(self, method: AnyMethod) -> dict[str, Component]:
        """The weights that ``method`` is given of these parts."""
        from amodal_pipeline.training.loop import Component

        if self.shape_prior and isinstance(method, VRSPConfig) and method.uses_prior:
            prior = self.shape_prior
            return {"prior": Component(prior.weights, prior.card.fingerprint.digest)}
        if self.tokenizer and isinstance(method, C2FSegConfig):
            weights = {
                name.removeprefix("network."): tensor
                for name, tensor in self.tokenizer.weights.items()
                if name.startswith("network.")
            }
            return {"tokenizer": Component(weights, self.tokenizer.card.fingerprint.digest)}
        return {}


def with_forms(
    method: AnyMethod, prior: ShapePriorCard | None, tokenizer: MethodCard | None
) -> AnyMethod:
    """The method with the forms of its parts, where it uses them and names none.

    Raises:
        ValueError: it names a form, and that of the data set is another.
    """
    match method:
        case VRSPConfig() if prior and method.uses_prior:
            return _with(method, "prior", prior.config, "shape_prior")
        case C2FSegConfig() if tokenizer:
            return _with(method, "tokenizer", tokenizer.method.root, "mask_tokenizer")
    return method


def _with(method: AnyMethod, name: str, form: BaseModel, job: str) -> AnyMethod:
    if getattr(method, name) not in (None, form):
        raise ValueError(
            f"{method.name}.model.{name} is not that of this data set ({form}): leave it null, or "
            f"run `kedro run --pipeline={job}` with these values"
        )
    return method.model_copy(update={name: form})
