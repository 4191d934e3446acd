"""Finished parts that methods are trained with: VRSP's shape prior, C2F-Seg's mask tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.contract import OF_A_PART, parts_of

if TYPE_CHECKING:
    from amodal_pipeline.training.loop import Component


@dataclass(frozen=True)
class Parts:
    """The parts of a data set, by the job that made each."""

    made: Mapping[str, Checkpoint] = field(default_factory=dict)

    def complete(self, method: Any) -> Any:
        """Return the method with the values that its configuration takes from these parts."""
        return with_forms(method, {job: part.card.method.root for job, part in self.made.items()})

    def components(self, method: Any) -> dict[str, Component]:
        """Return the weights that ``method`` takes from these parts, by module of its network."""
        from amodal_pipeline.training.loop import Component

        return {
            module: Component(_weights(self.made[job]), self.made[job].card.fingerprint.digest)
            for module, job in parts_of(method).items()
            if job in self.made
        }


def _weights(part: Checkpoint) -> dict[str, Any]:
    return {
        name.removeprefix(OF_A_PART): tensor
        for name, tensor in part.weights.items()
        if name.startswith(OF_A_PART)
    }


def with_forms(method: Any, forms: Mapping[str, Any]) -> Any:
    """Return the method with the forms of its parts, where it uses them and names none.

    Args:
        method: its configuration.
        forms: configurations of the parts, by the job that makes each.

    Raises:
        ValueError: the method names a form, and the data set's part has another.
    """
    for field_name, job in parts_of(method).items():
        if job not in forms:
            continue
        form = forms[job]
        if getattr(method, field_name) not in (None, form):
            raise ValueError(
                f"{method.name}.model.{field_name} is not that of this data set ({form}): leave "
                f"it null, or run `kedro run --pipeline={job}` with these values"
            )
        method = method.model_copy(update={field_name: form})
    return method
