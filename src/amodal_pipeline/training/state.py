"""The state of a training on disk: safetensors and JSON, replaced as a whole or not at all."""

import errno
import json
import shutil
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.methods.checkpoints import Fingerprint
from amodal_pipeline.methods.pretrained import weights_of


class StateCard(BaseModel):
    """How far a training has come and what it is a training of."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    iteration: int
    fingerprint: Fingerprint


class ChangedTrainingError(ValueError):
    """What is on disk was trained from something else."""


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    fingerprint: Fingerprint,
) -> None:
    """Write ``folder/state-<iteration>``, then remove the states before.

    Whatever happens, and whenever, a complete state is there afterwards.

    Raises:
        OSError: with the remedy, when the disk is full.
    """
    place = _place(folder, iteration)
    try:
        with replacing(place) as temporary:
            temporary.mkdir()
            save_file(weights_of(model), temporary / "model.safetensors")
            save_file(_optimizer_tensors(optimizer), temporary / "optimizer.safetensors")
            card = StateCard(iteration=iteration, fingerprint=fingerprint)
            (temporary / "state.json").write_text(card.model_dump_json(indent=2))
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if full:
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: the state of iteration {iteration} was not written to "
                f"{folder}; the state before is intact. Free space and run the same command again",
            ) from error
        raise
    remove_states(folder, but=place)


def remove_states(folder: Path, but: Path | None = None) -> None:
    """Remove all states in ``folder`` except one, and what a killed run left of unfinished ones."""
    for path in [*folder.glob("state-*"), *folder.glob(".state-*")]:
        if path != but:
            shutil.rmtree(path, ignore_errors=True)


def read_card(folder: Path) -> StateCard | None:
    """The card of the last state in ``folder``; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    iterations = [int(p.name.removeprefix("state-")) for p in Path(folder).glob("state-*")]
    if not iterations:
        return None
    path = _place(folder, max(iterations)) / "state.json"
    try:
        return StateCard.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): start again with --params restart=true"
        ) from error


def load_state(
    folder: Path, iteration: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put a saved state back into model and optimiser.

    Raises:
        ValueError: a file is missing, damaged or of another model.
    """
    place = _place(folder, iteration)
    try:
        model.load_state_dict(load_file(place / "model.safetensors"))
        tensors = load_file(place / "optimizer.safetensors")
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"the training state in {place} is damaged ({error}): "
            "start again with --params restart=true"
        ) from error
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, key = name.split(".", 1)
        state.setdefault(int(parameter), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _place(folder: Path, iteration: int) -> Path:
    return Path(folder) / f"state-{iteration:09d}"


def check_unchanged(found: Fingerprint, wanted: Fingerprint, folder: Path) -> None:
    """
    Raises:
        ChangedTrainingError: the two differ; names what, and the remedy.
    """
    changes = wanted.differences(found)
    if changes:
        more = [f"and {len(changes) - 12} more"] if len(changes) > 12 else []
        shown = "\n  ".join(changes[:12] + more)
        raise ChangedTrainingError(
            f"{folder} was trained from something else:\n  {shown}\n"
            "Undo the change to go on with that training, or replace it: --params restart=true"
        )


def truncate_history(path: Path, iteration: int) -> None:
    """Drop the lines of ``history.jsonl`` beyond ``iteration``: they are trained again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            break  # a line cut off when the run was killed; nothing after it counts
    with replacing(path) as temporary:
        temporary.write_text("".join(kept))


def read_history(path: Path) -> list[dict]:
    """The rows of a ``history.jsonl``, without a last line that was cut off."""
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
