"""Trained methods on disk: a folder with ``model.safetensors`` and ``method.json``. No pickle.

torch is imported when weights are read or written: Kedro's nodes name these classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from amodal_pipeline.annotations import Category
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.methods.configs import MethodConfig

if TYPE_CHECKING:
    from torch import Tensor


_SOURCE = Path(__file__).parent


class Fingerprint(BaseModel):
    """Everything that decides what a training gives: equal parts, equal weights.

    ``parts`` maps a name ("model.mask_head.channels", "annotations_train", …) to its value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    parts: dict[str, str]

    @classmethod
    def of(cls, **values: object) -> Fingerprint:
        """Flatten configurations and names into parts."""
        parts: dict[str, str] = {}
        for name, value in values.items():
            _flatten(name, value.model_dump() if isinstance(value, BaseModel) else value, parts)
        return cls(parts=parts)

    @property
    def digest(self) -> str:
        text = json.dumps(self.parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, other: Fingerprint) -> list[str]:
        """Lines "name: theirs -> ours" for each part in which ``other`` differs from this one."""
        names = sorted(self.parts.keys() | other.parts.keys())
        return [
            f"{n}: {other.parts.get(n, 'absent')} -> {self.parts.get(n, 'absent')}"
            for n in names
            if self.parts.get(n) != other.parts.get(n)
        ]


class Familiarity(BaseModel):
    """What the training images look like to the backbone: see training.familiarity."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    limit: float


@dataclass(frozen=True)
class Reuse:
    """What a method took from the checkpoint that it started from.

    How many tensors were ``copied``, copied ``partly`` (the rows of some categories) or left
    ``fresh``; ``categories``: those with rows of the checkpoint's, by the name they have there.
    """

    copied: int
    partly: int
    fresh: int
    categories: dict[str, str]


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
    familiarity: Familiarity | None = None
    reuse: Reuse | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A trained method: its card and its weights on the CPU."""

    card: MethodCard
    weights: dict[str, Tensor]

    def save(self, folder: str | os.PathLike) -> None:
        """Write both files; the card goes first and comes last, so it never fits other weights."""
        from safetensors.torch import save_file

        folder = Path(folder)
        (folder / "method.json").unlink(missing_ok=True)
        with replacing(folder / "model.safetensors") as path:
            save_file({k: v.contiguous() for k, v in self.weights.items()}, path)
        with replacing(folder / "method.json") as path:
            path.write_text(self.card.model_dump_json(indent=2))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            ValueError: a file is missing or damaged; names it and says how to get it again.
        """
        from safetensors.torch import load_file

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


def _flatten(name: str, value: object, parts: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, parts)
    else:
        parts[name] = str(value)


def git_revision() -> str:
    """The commit of the project, with "+changes" where files differ; or "unknown"."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], capture_output=True, text=True, check=True, timeout=10, cwd=_SOURCE
        ).stdout.strip()

    try:
        changed = "+changes" if git("status", "--porcelain", "-uno") else ""
        return git("rev-parse", "HEAD") + changed
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of the packages that decide numbers."""
    found = {}
    for name in ("amodal-pipeline", "torch", "torchvision", "timm", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
