"""Comparing checkpoints on disk with what would be trained now.

A checkpoint depends on its configuration and annotations, the checkpoint that it starts from, its
finished parts, and the detector that it learns from, each of which depends on others. :func:`look`
walks this graph. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from amodal_pipeline.annotations.storage import checksum
from amodal_pipeline.jobs.parts import with_forms
from amodal_pipeline.methods.checkpoints import (
    Checkpoint,
    Fingerprint,
    MethodCard,
    check_unchanged,
    check_version,
)
from amodal_pipeline.methods.contract import parts_of

if TYPE_CHECKING:
    from amodal_pipeline.annotations import Predictions
    from amodal_pipeline.jobs.train import Job


@dataclass(frozen=True)
class Plan:
    """What the checkpoint in a folder is to be made from.

    Attributes:
        folder: folder of the checkpoint.
        job: parameters of the training.
        annotations: fingerprint of the training split; None where it is not known.
        sources: the other inputs by their name in the fingerprint: "pretrained", the modules of the
            parts, "detected", and "weights_of" for a row of an ablation that takes the weights of
            another row. A Plan is checked in its turn; a card or a digest is taken as it is; None
            is not known.
    """

    folder: Path
    job: Job
    annotations: str | None
    sources: Mapping[str, Plan | MethodCard | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """The result of :func:`look`.

    Attributes:
        card: card of the checkpoint in the plan's folder; None without an intact checkpoint.
        folder: folder of the changed checkpoint: the plan's, or one that it depends on.
        changes: lines "name: value then -> value now".
    """

    card: MethodCard | None
    folder: Path
    changes: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """Return whether there is a checkpoint, and nothing that it was made from has changed."""
        return self.card is not None and not self.changes


def look(plan: Plan) -> Finding:
    """Check the checkpoint of a plan against the plan, after the checkpoints that it depends on.

    Unknown values, and missing checkpoints that it depends on, count as unchanged.

    Returns:
        A :class:`Finding` with the changes of the first checkpoint that has any.
    """
    card = card_of(plan.folder)
    made = card.fingerprint.parts if card else {}
    digests: dict[str, str] = {}
    again: dict[str, str] = {}
    for name, source in plan.sources.items():
        if isinstance(source, Plan):
            below = look(source)
            if below.changes:
                return Finding(card, below.folder, below.changes)
            use = "starts from" if name in ("pretrained", "weights_of") else "is trained with"
            again[name] = f"{source.folder.name}, which it {use}, was trained again"
            source = below.card
        if isinstance(source, MethodCard):
            source = source.fingerprint.digest
        digests[name] = made.get(name, "") if source is None else source
    if card is None:
        return Finding(None, plan.folder)
    wanted = _wanted(plan, digests, made)
    changes = [
        again.get(line.partition(":")[0], line) for line in wanted.differences(card.fingerprint)
    ]
    return Finding(card, plan.folder, tuple(changes))


def finished(plan: Plan) -> MethodCard | None:
    """Return the card of a plan's checkpoint; None where it is still to be made.

    Raises:
        ChangedTrainingError: the checkpoint, or one that it depends on, was made from other values;
            names them, and the remedy.
        ValueError: the folder is of an earlier version.
    """
    check_version(plan.folder)
    found = look(plan)
    check_unchanged(list(found.changes), found.folder)
    return found.card


@dataclass(frozen=True)
class Project:
    """Parameters of a run, and the folders that they name.

    Attributes:
        jobs: parameters of all trainings, by job.
        models: folder with a folder per job.
        annotations: fingerprint of the training split; None where it is not prepared.
        views: fingerprint of the views of a pretraining; None where they are not prepared.
    """

    jobs: Mapping[str, Job]
    models: Path
    annotations: str | None
    views: str | None = None

    def plan(self, name: str) -> Plan:
        """Return what the checkpoint of a job is to be made from."""
        job, folder = self.jobs[name], self.models / name
        card = card_of(folder)
        method = job.model.root
        sources = {module: self.plan(part) for module, part in parts_of(method).items()}
        if job.pretrained is not None:
            sources["pretrained"] = self._start(job)
        # A card without "detected" was made from detections of which none matched an object.
        if job.detector and (card is None or "detected" in card.fingerprint.parts):
            sources["detected"] = self._detected(job)
        annotations = self.views if name.startswith("pretrain_") else self.annotations
        return Plan(folder, job, annotations, sources)

    def _start(self, job: Job) -> Plan | MethodCard | None:
        method = job.model.root.DESCRIPTION
        own = (method.starts_from, f"pretrain_{job.name}" if method.pretrained_on_views else None)
        if job.pretrained in own and job.pretrained != job.name:
            # A start that needs parts is not trained with this job: only its card counts.
            made_here = not parts_of(self.jobs[job.pretrained].model.root)
            folder = self.models / job.pretrained
            return self.plan(job.pretrained) if made_here else card_of(folder)
        return card_of(Path(job.pretrained).expanduser())

    def _detected(self, job: Job) -> MethodCard | str | None:
        """Return the card or digest of the detections; the detector's own values are unchecked."""
        if job.detector_file:
            file = Path(job.detector_file.replace("{split}", "train")).expanduser()
            return checksum(file) if file.is_file() else None
        return card_of(self.models / job.detector)


def check_predictions(found: Predictions, name: str, card: MethodCard, folder: Path) -> None:
    """Check that predictions were made by the checkpoint that is in ``folder`` now.

    Args:
        found: the predictions.
        name: begins the error: "the predictions of orcnn were made".
        card: card of the checkpoint in ``folder``.

    Raises:
        ValueError: another checkpoint made them.
    """
    if found.metadata.checkpoint != card.fingerprint.digest:
        raise ValueError(
            f"{name} by another checkpoint than the one in {folder}: run again without "
            "--only-missing-outputs"
        )


def load(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder; None without an intact one.

    A training makes a missing or damaged checkpoint again from its state.
    """
    try:
        return Checkpoint.load(folder)
    except ValueError:
        return None


def _wanted(plan: Plan, digests: Mapping[str, str], made: Mapping[str, str]) -> Fingerprint:
    annotations = plan.annotations or made.get("annotations_train", "")
    forms = {
        job: source.job.model.root if isinstance(source, Plan) else source.method.root
        for module, job in parts_of(plan.job.model.root).items()
        if isinstance(source := plan.sources.get(module), (Plan, MethodCard))
    }
    return Fingerprint.of_training(
        with_forms(plan.job.model.root, forms),
        plan.job.training,
        annotations,
        digests,
        plan.job.pretrained_categories,
    )


def card_of(folder: Path) -> MethodCard | None:
    """Return the card of the checkpoint in a folder; None without an intact one."""
    try:
        return MethodCard.load(folder)
    except ValueError:
        return None
