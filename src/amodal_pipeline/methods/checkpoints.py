"""Trained methods on disk: a folder with ``model.safetensors`` and ``method.json``. No pickle.

torch is imported when weights are read or written: Kedro's nodes name these classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError

from amodal_pipeline.annotations import Category
from amodal_pipeline.annotations.storage import checksum, replacing
from amodal_pipeline.methods.registry import MethodConfig

if TYPE_CHECKING:
    from torch import Tensor, nn


logger = logging.getLogger(__name__)
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
        return _digest(self.parts)

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


class DivergedError(ArithmeticError):
    """A loss, a gradient or a weight is not a finite number."""


class DamagedError(ValueError):
    """A card or a file of weights is not what was written."""


class MethodCard(BaseModel):
    """What a checkpoint is: the method, what it was trained on, and with which code.

    ``sha256``: see :func:`write_card`; empty in memory.
    """

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
    sha256: dict[str, str] = {}

    @classmethod
    def load(cls, folder: str | os.PathLike) -> MethodCard:
        """Read the card of a checkpoint folder.

        Raises:
            ValueError: it is missing or damaged; names it and says how to get it again.
        """
        with _naming_damage(Path(folder)):
            return read_card(Path(folder) / "method.json", cls)[0]


@dataclass(frozen=True)
class Checkpoint:
    """A trained method: its card and its weights on the CPU."""

    card: MethodCard
    weights: dict[str, Tensor]

    def save(self, folder: str | os.PathLike) -> None:
        """Write both files. The card goes before the weights and comes after them: a kill leaves no
        card rather than one of other weights.

        Raises:
            DivergedError: a weight is not a finite number; nothing was written.
            OSError: the disk is full; what was there before is intact.
        """
        from safetensors.torch import save_file

        if found := not_finite(self.weights):
            raise DivergedError(
                f"this {self.card.method.root.name} was not saved to {folder}: {found}. Its "
                "training has diverged: lower the learning rate and train it again with "
                "--params restart=true"
            )
        folder = Path(folder)
        card, weights = folder / "method.json", folder / "model.safetensors"
        with replacing(card) as new_card, replacing(weights) as new_weights:
            save_file({k: v.contiguous() for k, v in self.weights.items()}, new_weights)
            write_card(new_card, self.card, new_weights)
            card.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Checkpoint:
        """Read a checkpoint, also while another process replaces it.

        Raises:
            ValueError: a file is missing or damaged, or the two are not of each other; names it and
                says how to get it again.
        """
        folder = Path(folder)
        with _naming_damage(folder):
            return cls(
                *read_together(folder / "method.json", folder / "model.safetensors", MethodCard)
            )


@contextmanager
def _naming_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no trained method ({Path(error.filename).name} is missing): "
            "train one with `kedro run --pipeline=train_<method>`"
        ) from error
    except DamagedError as error:
        raise ValueError(
            f"the checkpoint in {folder} is damaged or of another version: {error}\n"
            "Run its training again: it takes the weights from the training state beside them; "
            "where that is damaged, too, with --params restart=true"
        ) from error


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Say which tensor holds values that are NaN or infinite, and how many; "" where none does."""
    for name, tensor in tensors.items():
        # A sum is faster than a look at each value. (That of finite values may be infinite.)
        if not tensor.is_floating_point() or tensor.sum().isfinite():
            continue
        if count := int((~tensor.isfinite()).sum()):
            return f"{name} holds {count} of {tensor.numel()} values that are NaN or infinite"
    return ""


T = TypeVar("T", bound=BaseModel)


def write_card(path: Path, card: BaseModel, *weights: Path) -> None:
    """Write a card as JSON, and with it who it belongs to: ``sha256`` has the SHA-256 of each file
    of ``weights`` by its name, and under "card" that of all other values (as JSON with sorted
    keys)."""
    values = json.loads(card.model_dump_json(exclude={"sha256"}))
    sums = {"card": _digest(values), **{file.name: checksum(file) for file in weights}}
    text = json.dumps(values | {"sha256": sums}, indent=2, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def read_card(path: Path, kind: type[T]) -> tuple[T, dict[str, str]]:
    """Read what :func:`write_card` wrote: the card, and the checksums of the files it belongs to.

    A card of an earlier version has none: it is taken as it is.

    Raises:
        FileNotFoundError: it is missing.
        DamagedError: it was changed after it was written, or is of another version.
    """
    try:
        values = json.loads(path.read_bytes())
        sums = values.pop("sha256", {})
        if sums and sums.pop("card") != _digest(values):
            raise DamagedError(f"{path} was changed after it was written")
        return kind.model_validate_json(json.dumps(values)), sums
    except DamagedError:
        raise
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: {error}") from error


def read_weights(path: Path, sums: Mapping[str, str]) -> dict[str, Tensor]:
    """Read a file of tensors once, and check that it has the checksum that ``sums`` has for it.

    Raises:
        FileNotFoundError: it is missing.
        DamagedError: its bytes are not those that the card was written with; or, where the card is
            of an earlier version and has no checksum, it cannot be read or is not finite.
    """
    from safetensors.torch import load

    data = path.read_bytes()
    expected = sums.get(path.name)
    if expected and hashlib.sha256(data).hexdigest() != expected:
        raise DamagedError(f"{path} is not the file that its card was written with")
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise DamagedError(f"{path}: {error}") from error
    if not expected:
        if found := not_finite(tensors):
            raise DamagedError(f"{path}: {found}")
        logger.warning(
            "%s was written by an earlier version, without a checksum: damage to it may go "
            "unnoticed until it is saved again",
            path,
        )
    return tensors


def read_together(card: Path, weights: Path, kind: type[T]) -> tuple[T, dict[str, Tensor]]:
    """Read a card and the weights that belong to it, also while another process replaces both.

    Raises:
        FileNotFoundError, DamagedError: one of them is missing or damaged, and stays so.
    """
    pauses = iter((0.05, 0.3))
    while True:
        try:
            found, sums = read_card(card, kind)
            tensors = read_weights(weights, sums)
            if not sums and read_card(card, kind) != (found, sums):
                raise DamagedError(f"{card} was replaced while {weights.name} was read")
            return found, tensors
        except (FileNotFoundError, DamagedError):
            # One of the two may be new already, or gone for a moment.
            pause = next(pauses, None)
            if pause is None or not (card.exists() or weights.exists()):
                raise
            time.sleep(pause)


def check_fits(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Compare names and shapes of tensors with those of a model, before they are put in.

    Raises:
        ValueError: they differ; names ``what``, how many do, and the first.
    """
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    other = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = sorted(
        name for name in own.keys() | other.keys() if own.get(name) != other.get(name)
    )
    if differing:
        name = differing[0]
        raise ValueError(
            f"{what} does not fit its configuration: {len(differing)} of {len(own)} tensors "
            f"differ, {name} first (found {other.get(name, 'nothing')}, expected "
            f"{own.get(name, 'nothing')}). It is of another version, or of something else"
        )


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _flatten(name: str, value: object, parts: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, parts)
    else:
        parts[name] = str(value)


def git_revision() -> str:
    """Return the commit of the project, with "+changes" where files differ; or "unknown"."""

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
