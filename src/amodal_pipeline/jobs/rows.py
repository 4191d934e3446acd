"""Parameters of an ablation, and the trainings that they describe. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from amodal_pipeline.annotations import Given
from amodal_pipeline.compose.config import ComposeConfig
from amodal_pipeline.jobs.sources import Source
from amodal_pipeline.jobs.train import Job, Pretraining
from amodal_pipeline.layers.configs import LocalPath, Strict

# Names of rows are part of file names that are split at their dots.
RowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]

Completes = Literal[Given.TRUE_MASKS, Given.TRUE_BOXES, Given.DETECTIONS] | None


class PretrainingConfig(Strict):
    """Differences of a row's pretraining from its method's: ``model`` and ``training`` of the
    pretraining's job, and ``views``, the pictures that it learns from."""

    model: dict[str, Any] = Field({})
    training: dict[str, Any] = Field({})
    views: dict[str, Any] = Field({})


class RowConfig(Strict):
    """One training, as differences from a method's own parameters.

    Attributes:
        job: the method whose parameters the row takes.
        model, training: values that differ, nested as in the job.
        pretrained: the start, if it differs from the job's: a method (a job), another row, a
            checkpoint folder, or null.
        trunk: false for a row that does not start from the shared trunk.
        composed: train only on pictures composed from the visible masks of the training images.
        weights_of: do not train, but take another row's weights, with other values of ``model``
            that matter after training only.
        completes: what a completer is scored on: "true" visible masks, true masks within
            "true_boxes", or the "detections" of a detector.
        pretraining: start from a pretraining of the row's own, with these differences.
    """

    job: str
    model: dict[str, Any] = Field({})
    training: dict[str, Any] = Field({})
    pretrained: LocalPath | None = None
    trunk: bool = True
    composed: ComposeConfig | None = None
    weights_of: RowName | None = None
    completes: Completes = None
    pretraining: PretrainingConfig | None = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        trained = {"training", "pretrained", "composed", "trunk", "pretraining"}
        trained &= self.model_fields_set
        if self.weights_of and trained:
            raise ValueError(f"a row with weights_of is not trained: leave out {sorted(trained)}")
        return self


class TrunkConfig(Strict):
    """A job that is trained once and shared by rows.

    Each row starts from its checkpoint, freezes the parameters whose names begin with one of
    ``frozen``, and trains the others. ``training``: values of all rows on the trunk, which replace
    those of their jobs.
    """

    job: str
    frozen: tuple[str, ...] = Field(("detector.",), min_length=1)
    training: dict[str, Any] = Field({})


class AblationConfig(Strict):
    """A table of trainings.

    Attributes:
        reference: the row that all others are compared with.
        metrics: columns of the table, as "protocol/metric".
        trunk: the shared start; null trains every row whole.
        pretrained: the start, as in a row, of rows that are not on the trunk and name none; if it
            is not given, the start is their job's.
        training: values of these rows, which replace those of their jobs.
        rows: by name; a row that is null is left out.
        row: the only row to run; null runs all.
    """

    reference: str
    metrics: tuple[Annotated[str, Field(pattern=r"^\w+/\w+$")], ...] = Field(min_length=1)
    trunk: TrunkConfig | None = None
    pretrained: LocalPath | None = None
    training: dict[str, Any] = Field({})
    rows: dict[RowName, RowConfig | None]
    row: str | None = None

    @property
    def wanted(self) -> dict[str, RowConfig]:
        """Return the rows that are not null."""
        return {name: row for name, row in self.rows.items() if row is not None}

    @model_validator(mode="after")
    def _names_are_of_rows(self) -> Self:
        for key in ("reference", "row"):
            name = getattr(self, key)
            if name is not None and name not in self.wanted:
                raise ValueError(f"{key}: no row is called {name!r}; {', '.join(self.wanted)} are")
        for name, row in self.wanted.items():
            if self.trunk and row.trunk and "pretrained" in row.model_fields_set:
                raise ValueError(
                    f"rows.{name} starts from the trunk: pretrained needs trunk: false beside it"
                )
        return self


@dataclass(frozen=True)
class Row:
    """One training with all its values.

    ``upstream``: the training that it starts from, if that has to be done first.
    ``weights_of``: the row whose weights it takes instead of a training.
    """

    name: str
    job: Job
    upstream: "Job | Row | Pretraining | None" = None
    composed: ComposeConfig | None = None
    weights_of: "Row | None" = None
    completes: Completes = None

    @property
    def stem(self) -> str:
        """Return the name of its scores, "<method>.<row>"."""
        return f"{self.job.model.root.name}.{self.name}"


def resolve(
    ablation: AblationConfig, jobs: Mapping[str, Job], pretraining: Pretraining | None = None
) -> dict[str, Row]:
    """Return all rows of an ablation, in its order.

    Args:
        jobs: by name of the method.
        pretraining: the pretraining that rows may name as their start.

    Raises:
        ValueError: a row has a value that its method does not know, names an unknown job, changes
            the network of the shared trunk, starts from itself, or changes a pretraining that it
            does not start from; names the row.
    """
    return {name: _resolve(name, ablation, jobs, pretraining, ()) for name in ablation.wanted}


def _resolve(
    name: str,
    ablation: AblationConfig,
    jobs: Mapping[str, Job],
    pretraining: Pretraining | None,
    below: tuple[str, ...],
) -> Row:
    if name in below:
        raise ValueError(f"rows.{name} starts from itself: {' from '.join([*below, name])}")
    row = ablation.wanted[name]
    if row.weights_of:
        return _used_otherwise(name, ablation, jobs, pretraining, (*below, name))
    trunk = ablation.trunk if row.trunk else None
    values = _job(row.job, jobs, name).model_dump()
    values["model"] = _merged(values["model"], row.model)
    if trunk:
        values["pretrained"] = trunk.job
        shared = trunk.training | {"frozen": trunk.frozen}
        values["training"] = _merged(values["training"], shared)
    else:
        for given in (ablation, row):
            if "pretrained" in given.model_fields_set:
                values["pretrained"] = given.pretrained
        values["training"] = _merged(values["training"], ablation.training)
    values["training"] = _merged(values["training"], row.training)
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"rows.{name}: {error}") from error
    if trunk:
        _fits(name, job, _job(trunk.job, jobs, name))
    upstream: Job | Row | Pretraining | None = jobs.get(job.pretrained or "")
    if pretraining and job.pretrained == pretraining.name:
        upstream = _pretrained_otherwise(name, row.pretraining, pretraining)
    elif row.pretraining:
        raise ValueError(
            f"rows.{name} has a pretraining of its own, and starts from {job.pretrained}: leave "
            "out pretraining, or pretrained"
        )
    elif upstream is None and job.pretrained in ablation.wanted:
        upstream = _resolve(job.pretrained, ablation, jobs, pretraining, (*below, name))
    return Row(name, job, upstream, row.composed, completes=row.completes)


def _pretrained_otherwise(
    name: str, changes: PretrainingConfig | None, pretraining: Pretraining
) -> Pretraining:
    if changes is None:
        return pretraining
    job, views = pretraining.job.model_dump(), pretraining.views.model_dump(exclude_unset=True)
    job["model"] = _merged(job["model"], changes.model)
    job["training"] = _merged(job["training"], changes.training)
    try:
        return replace(
            pretraining,
            job=Job.model_validate(job),
            views=Source.model_validate(_merged(views, changes.views)),
        )
    except ValidationError as error:
        raise ValueError(f"rows.{name}.pretraining: {error}") from error


def _used_otherwise(
    name: str,
    ablation: AblationConfig,
    jobs: Mapping[str, Job],
    pretraining: Pretraining | None,
    below: tuple[str, ...],
) -> Row:
    """Return a row with the weights of another, and values that matter after training only.

    Raises:
        ValueError: see :func:`resolve`; or a value matters in training.
    """
    row = ablation.wanted[name]
    if row.weights_of not in ablation.wanted:
        raise ValueError(
            f"rows.{name}: weights_of: no row is called {row.weights_of!r}; "
            f"{', '.join(ablation.wanted)} are"
        )
    trained = _resolve(row.weights_of, ablation, jobs, pretraining, below)
    if trained.job.model.root.name != row.job:
        raise ValueError(f"rows.{name}: {row.weights_of} is no {row.job}: weights_of needs one")
    values = trained.job.model_dump()
    values["model"] = _merged(values["model"], row.model)
    try:
        job = Job.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"rows.{name}: {error}") from error
    usable = job.model.root.DESCRIPTION.after_training
    if learnt := sorted(row.model.keys() - usable):
        raise ValueError(
            f"rows.{name}: {', '.join(learnt)} matters in training, and weights_of has none: "
            f"leave out weights_of, or change {', '.join(sorted(usable)) or 'nothing'} only"
        )
    return Row(name, job, weights_of=trained, completes=row.completes)


def _job(name: str, jobs: Mapping[str, Job], row: str) -> Job:
    if name not in jobs:
        raise ValueError(f"rows.{row}: no job is called {name!r}; {', '.join(jobs)} are")
    return jobs[name]


def _fits(name: str, row: Job, trunk: Job) -> None:
    own, shared = (job.model.root.model_dump().get("detector") for job in (row, trunk))
    if own != shared:
        raise ValueError(
            f"rows.{name} has another detector than the {trunk.model.root.name} that the trunk is: "
            "make them equal, or set trunk: false for this row (trunk: null for all)"
        )


def _merged(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(values[key], change)
        for key, change in changes.items()
        if isinstance(change, Mapping) and isinstance(values.get(key), dict)
    }
    return {**values, **changes, **both}
