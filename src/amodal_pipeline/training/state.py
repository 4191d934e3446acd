"""The state of a training on disk: safetensors and JSON, written as a whole or not at all."""

import json
import logging
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file
from torch import Tensor, nn

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.methods.checkpoints import (
    ChangedTrainingError,
    DamagedError,
    DivergedError,
    Fingerprint,
    check_fits,
    check_unchanged,
    not_finite,
    read_weights,
    write_card,
)
from amodal_pipeline.methods.checkpoints import read_card as _read_card
from amodal_pipeline.methods.pretrained import weights_of

__all__ = ["ChangedTrainingError"]  # what read_state raises

logger = logging.getLogger(__name__)

KEPT = 2  # states; if the last one is damaged, the training continues from the one before
_NAME = re.compile(r"state-(\d{9,})")


class StateCard(BaseModel):
    """The iteration of a saved state and the fingerprint of its training.

    ``sha256``: see :func:`~..methods.checkpoints.write_card`; empty in memory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    iteration: int
    fingerprint: Fingerprint
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class State:
    """A saved state: its card, the model's tensors and the optimiser's, on the CPU."""

    card: StateCard
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Copy the tensors into a model and its optimiser.

        Raises:
            ValueError: the tensors belong to another model.
        """
        check_fits(model, self.model, f"the training state of iteration {self.card.iteration}")
        model.load_state_dict(self.model)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.optimizer.items():
            parameter, key = name.split(".", 1)
            state.setdefault(int(parameter), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    fingerprint: Fingerprint,
) -> None:
    """Write ``folder/state-<iteration>``, and remove all but the last :data:`KEPT` states.

    If the process is killed at any time, a complete state remains.

    Raises:
        DivergedError: a tensor is not finite; nothing was written, previous states are intact.
        OSError: the disk is full; previous states are intact.
    """
    place = _place(folder, iteration)
    weights, moments = weights_of(model), _optimizer_tensors(optimizer)
    if found := not_finite(weights) or not_finite(moments):
        raise DivergedError(
            f"after iteration {iteration}, {found}: the state was not saved. Lower the learning "
            "rate, lengthen the warm-up or clip gradients, and start again with --params "
            "restart=true; the states saved before are intact"
        )
    with replacing(place) as temporary:
        temporary.mkdir()
        files = temporary / "model.safetensors", temporary / "optimizer.safetensors"
        save_file(weights, files[0])
        save_file(moments, files[1])
        card = StateCard(iteration=iteration, fingerprint=fingerprint)
        write_card(temporary / "state.json", card, *files)
    # States of later iterations exist if one was damaged; they are obsolete.
    kept = [i for i in _iterations(folder) if i <= iteration][:KEPT]
    remove_states(folder, kept)


def remove_states(folder: Path, kept: Collection[int] = ()) -> None:
    """Remove all states in ``folder`` except those of the iterations ``kept``.

    Unfinished states of killed runs are removed too.
    """
    for iteration in _iterations(folder):
        if iteration not in kept:
            shutil.rmtree(_place(folder, iteration), ignore_errors=True)
    for path in folder.glob(".state-*"):
        shutil.rmtree(path, ignore_errors=True)


def read_card(folder: Path) -> StateCard | None:
    """Return the card of the last state in ``folder`` whose card is intact; None without states.

    Raises:
        ValueError: all cards are damaged; names the last one.
    """
    damage: DamagedError | None = None
    for iteration in _iterations(folder):
        try:
            return _card(_place(folder, iteration))[0]
        except DamagedError as error:
            damage = damage or error
    if damage:
        raise damage
    return None


def read_state(folder: Path, wanted: Fingerprint) -> State | None:
    """Return the last intact state in ``folder``; None without states.

    Args:
        folder: of the checkpoint.
        wanted: fingerprint of the training that is to be continued.

    Raises:
        ChangedTrainingError: the state is of another training.
        ValueError: all states are damaged; names the last one and the remedy.
    """
    damage = ""
    for iteration in _iterations(folder):
        place = _place(folder, iteration)
        try:
            card, sums = _card(place)
            check_unchanged(wanted.differences(card.fingerprint), folder)
            model, optimizer = (
                read_weights(place / f"{name}.safetensors", sums) for name in ("model", "optimizer")
            )
        except (FileNotFoundError, DamagedError) as error:
            damage = damage or f"the training state in {place} is damaged ({error})"
            continue
        if damage:
            logger.warning("%s: continuing from the state of iteration %d", damage, iteration)
        return State(card, model, optimizer)
    if damage:
        raise ValueError(f"{damage}: start again with --params restart=true")
    return None


def _card(place: Path) -> tuple[StateCard, dict[str, str]]:
    try:
        return _read_card(place / "state.json", StateCard)
    except FileNotFoundError as error:
        raise DamagedError(f"{error.filename} is missing") from error


def _iterations(folder: Path) -> list[int]:
    """Return the iterations of all states in ``folder``, the last first."""
    names = (_NAME.fullmatch(path.name) for path in Path(folder).glob("state-*"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def _place(folder: Path, iteration: int) -> Path:
    return Path(folder) / f"state-{iteration:09d}"


def truncate_history(path: Path, iteration: int) -> None:
    """Remove the lines of ``history.jsonl`` after ``iteration``, which is trained again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            break  # a line that was cut off when the run was killed, always the last one
    with replacing(path) as temporary:
        temporary.write_text("".join(kept))


def read_history(path: Path) -> list[dict]:
    """Return the rows of a ``history.jsonl``, without a last line that was cut off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{parameter}.{key}": value.detach().cpu().contiguous()
        for parameter, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
