"""Finished parts that methods are trained with: VRSP's shape prior, C2F-Seg's mask tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from amodal_pipeline.methods.checkpoints import Checkpoint, MethodCard
from amodal_pipeline.methods.contract import parts_of
from amodal_pipeline.methods.vrsp.stored import ShapePriorCard, StoredShapePrior

if TYPE_CHECKING:
    from amodal_pipeline.training.loop import Component


@dataclass(frozen=True)
class Parts:
    """The parts of a data set; None where it has none, or none is needed."""

    shape_prior: StoredShapePrior | None = None
    tokenizer: Checkpoint | None = None

    def complete(self, method: Any) -> Any:
        """Return the method with what its configuration takes from these parts."""
        return with_forms(
            method,
            self.shape_prior.card if self.shape_prior else None,
            self.tokenizer.card if self.tokenizer else None,
        )

    def components(self, method: Any) -> dict[str, Component]:
        """Return the weights that ``method`` takes from these parts, by name."""
        from amodal_pipeline.training.loop import Component

        made: dict[str, Component] = {}
        if prior := self.shape_prior:
            made["shape_prior"] = Component(prior.weights, prior.card.fingerprint.digest)
        if tokenizer := self.tokenizer:
            weights = {
                name.removeprefix("network."): tensor
                for name, tensor in tokenizer.weights.items()
                if name.startswith("network.")
            }
            made["mask_tokenizer"] = Component(weights, tokenizer.card.fingerprint.digest)
        wanted = parts_of(method)
        return {part: made[job] for part, job in wanted.items() if job in made}


def with_forms(method: Any, prior: ShapePriorCard | None, tokenizer: MethodCard | None) -> Any:
    """Return the method with the forms of its parts, where it uses them and names none.

    Raises:
        ValueError: it names a form, and that of the data set is another.
    """
    forms: dict[str, BaseModel] = {}
    if prior:
        forms["shape_prior"] = prior.config
    if tokenizer:
        forms["mask_tokenizer"] = tokenizer.method.root
    for part, job in parts_of(method).items():
        if job in forms:
            method = _with(method, part, forms[job], job)
    return method


def _with(method: Any, name: str, form: BaseModel, job: str) -> Any:
    if getattr(method, name) not in (None, form):
        raise ValueError(
            f"{method.name}.model.{name} is not that of this data set ({form}): leave it null, or "
            f"run `kedro run --pipeline={job}` with these values"
        )
    return method.model_copy(update={name: form})
