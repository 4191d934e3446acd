"""Trained methods on disk: a folder with ``model.safetensors`` and ``method.json``. No pickle.

torch is imported only when weights are read or written, because Kedro's nodes import this module.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError

from amodal_pipeline.annotations import Category
from amodal_pipeline.annotations.storage import checksum, replacing
from amodal_pipeline.methods.registry import MethodConfig
from amodal_pipeline.methods.training_config import WITHOUT_EFFECT, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn


logger = logging.getLogger(__name__)
_SOURCE = Path(__file__).parent


class Fingerprint(BaseModel):
    """All that determines the result of a training: equal parts give equal weights.

    ``parts`` maps names ("model.mask_head.channels", "annotations_train", …) to values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    parts: dict[str, str]

    @classmethod
    def of(cls, **values: object) -> Fingerprint:
        """Return the fingerprint of configurations and values, flattened to dotted names."""
        parts: dict[str, str] = {}
        for name, value in values.items():
            _flatten(name, value.model_dump() if isinstance(value, BaseModel) else value, parts)
        return cls(parts=parts)

    @classmethod
    def of_training(
        cls,
        method: BaseModel,
        training: TrainingConfig,
        annotations: str,
        sources: Mapping[str, str] = MappingProxyType({}),
        renamed: Mapping[str, str] = MappingProxyType({}),
    ) -> Fingerprint:
        """Return the fingerprint of a training: everything that decides its weights.

        Args:
            method: its configuration.
            training: how it is trained.
            annotations: the fingerprint of the training split.
            sources: digests of what else it is made from, by name: "pretrained", the modules of
                finished parts, "detected"; or "weights_of" alone, of what it is but for values that
                matter after training. "" is nothing.
            renamed: what categories are called in the checkpoint that it starts from.
        """
        used = {name: digest for name, digest in sources.items() if digest}
        if "weights_of" not in used:
            if "pretrained" in used and renamed:
                used["pretrained_categories"] = renamed
            used = {"pretrained": "none", "annotations_train": annotations, **used}
        return cls.of(**used, model=method, training=training.model_dump(exclude=WITHOUT_EFFECT))

    @property
    def digest(self) -> str:
        return _digest(self.parts)

    def differences(self, other: Fingerprint) -> list[str]:
        """Return a line "name: theirs -> ours" for each part in which ``other`` differs.

        The precision "auto" is an unknown one: an earlier version recorded it, or the machine of
        the training is not asked. It differs from none.
        """
        names = sorted(self.parts.keys() | other.parts.keys())
        return [
            f"{n}: {theirs} -> {ours}"
            for n in names
            if (theirs := other.parts.get(n, "absent")) != (ours := self.parts.get(n, "absent"))
            and (n != "training.precision" or "auto" not in (theirs, ours))
        ]


class Familiarity(BaseModel):
    """Statistics of the training images' backbone features: see training.familiarity."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    limit: float


@dataclass(frozen=True)
class Reuse:
    """What a method copied from the checkpoint that it started from.

    Attributes:
        copied: number of tensors copied as a whole.
        partly: number of tensors of which the rows of some categories were copied.
        fresh: number of tensors that keep their random weights.
        categories: category names whose rows were copied, with their names in the checkpoint.
    """

    copied: int
    partly: int
    fresh: int
    categories: dict[str, str]


class DivergedError(ArithmeticError):
    """A loss, a gradient or a weight is not a finite number."""


class ChangedTrainingError(ValueError):
    """What is on disk was trained from something else."""


class DamagedError(ValueError):
    """A card or a file of weights differs from what was written."""


class MethodCard(BaseModel):
    """Description of a checkpoint: the method, its training data, and the code that trained it.

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
        """Return the card of a checkpoint folder.

        Raises:
            ValueError: it is missing or damaged; names the file and the remedy.
        """
        with _naming_damage(Path(folder)):
            return read_card(Path(folder) / "method.json", cls)[0]


@dataclass(frozen=True)
class Checkpoint:
    """A trained method: its card and its weights on the CPU."""

    card: MethodCard
    weights: dict[str, Tensor]

    def save(self, folder: str | os.PathLike) -> None:
        """Write both files.

        The old card is removed before the weights are replaced, and the new one written after them:
        a killed process leaves no card rather than a card of other weights.

        Raises:
            DivergedError: a weight is not a finite number; nothing was written.
            OSError: the disk is full; the previous files are intact.
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
        """Return the checkpoint in a folder, also while another process replaces it.

        Raises:
            ValueError: a file is missing or damaged, or the two do not belong together; names the
                file and the remedy.
        """
        folder = Path(folder)
        with _naming_damage(folder):
            return cls(
                *read_together(folder / "method.json", folder / "model.safetensors", MethodCard)
            )


class NotMade:
    """Stands for the checkpoint of a training that a run has no use for."""


@contextmanager
def _naming_damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        check_version(folder)
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


def check_unchanged(changes: Sequence[str], folder: Path) -> None:
    """Check that a training found on disk is the wanted one.

    Raises:
        ChangedTrainingError: there are changes; names them, and the remedy.
    """
    if changes:
        more = [f"and {len(changes) - 12} more"] if len(changes) > 12 else []
        shown = "\n  ".join([*changes[:12], *more])
        raise ChangedTrainingError(
            f"{folder} belongs to another training (on disk -> now):\n  {shown}\n"
            "Undo the changes to continue that training, or replace it: --params restart=true"
        )


def check_version(folder: Path) -> None:
    """Check that a folder holds nothing of an earlier version.

    Raises:
        ValueError: the folder has a shape prior of an earlier version, which had files of its own.
    """
    if (folder / "shape_prior.json").exists() and not (folder / "method.json").exists():
        raise ValueError(
            f"{folder} holds a shape prior of an earlier version (shape_prior.json): make a "
            "new one with `kedro run --pipeline=shape_prior --params restart=true`"
        )


def remove_older(folder: Path) -> None:
    """Remove the files of a shape prior of an earlier version, if the folder has them."""
    for kind in ("json", "safetensors"):
        (folder / f"shape_prior.{kind}").unlink(missing_ok=True)


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return which tensor has NaN or infinite values, and how many; "" if all are finite."""
    for name, tensor in tensors.items():
        # A sum is faster than a test of each value, but may overflow although all are finite.
        if not tensor.is_floating_point() or tensor.sum().isfinite():
            continue
        if count := int((~tensor.isfinite()).sum()):
            return f"{name} has {count} of {tensor.numel()} values that are NaN or infinite"
    return ""


T = TypeVar("T", bound=BaseModel)


def write_card(path: Path, card: BaseModel, *weights: Path) -> None:
    """Write a card as JSON with checksums.

    Its ``sha256`` maps the name of each file of ``weights`` to the file's SHA-256, and "card" to
    the SHA-256 of all other values (as JSON with sorted keys).
    """
    values = json.loads(card.model_dump_json(exclude={"sha256"}))
    sums = {"card": _digest(values), **{file.name: checksum(file) for file in weights}}
    text = json.dumps(values | {"sha256": sums}, indent=2, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def read_card(path: Path, kind: type[T]) -> tuple[T, dict[str, str]]:
    """Return a card that :func:`write_card` wrote, and the checksums of its files of weights.

    Cards of earlier versions have no checksums and are not checked.

    Raises:
        FileNotFoundError: the card is missing.
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
    """Return the tensors of a file whose checksum is that in ``sums``.

    Raises:
        FileNotFoundError: the file is missing.
        DamagedError: its checksum is another one; or, without a checksum (earlier versions), the
            file cannot be read or has values that are not finite.
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
            "%s has no checksum, because an earlier version wrote it: damage may go unnoticed "
            "until it is saved again",
            path,
        )
    return tensors


def read_together(card: Path, weights: Path, kind: type[T]) -> tuple[T, dict[str, Tensor]]:
    """Return a card and its weights, also while another process replaces both.

    Raises:
        FileNotFoundError, DamagedError: one of them is missing or damaged, also after a wait.
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
            # Another process may have replaced only one of the two so far.
            pause = next(pauses, None)
            if pause is None or not (card.exists() or weights.exists()):
                raise
            time.sleep(pause)


def check_fits(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Check that tensors have the names and shapes of a model's state.

    Raises:
        ValueError: they differ; names ``what``, the number of differences and the first one.
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
            f"{own.get(name, 'nothing')}). It comes from another version or another network: train "
            "it again"
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
    """Return the project's commit, followed by "+changes" if files were edited; or "unknown"."""

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
    """Return the versions of the packages on which results depend."""
    found = {}
    for name in ("amodal-pipeline", "torch", "torchvision", "timm", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
