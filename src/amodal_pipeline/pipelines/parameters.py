"""All parameters of a run, and checks of them before anything runs."""

from collections.abc import Mapping
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Literal

from click import ClickException
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    create_model,
    model_validator,
)

from amodal_pipeline.annotations import Given
from amodal_pipeline.compose.config import VariantsConfig
from amodal_pipeline.jobs.order_net import OrderNetJob
from amodal_pipeline.jobs.rows import AblationConfig, RowName
from amodal_pipeline.jobs.sources import AuditConfig, Source
from amodal_pipeline.jobs.train import Job
from amodal_pipeline.layers.configs import LocalPath, Strict
from amodal_pipeline.local_paths import check_local
from amodal_pipeline.methods.registry import METHODS, describe, jobs
from amodal_pipeline.methods.training_config import InferenceConfig
from amodal_pipeline.metrics.config import EvaluationConfig
from amodal_pipeline.shipped import shipped_weights, with_shipped

# Folders are strings in conf/ and become paths for nodes.
LocalFolder = Annotated[Path, AfterValidator(lambda path: Path(check_local(str(path))))]
# Kedro's command line turns "true" into a boolean.
_Inputs = Annotated[
    LocalPath, BeforeValidator(lambda value: Given.TRUE_MASKS.value if value is True else value)
]


class FoldersConfig(Strict):
    """Folders and files outside of the catalog: see conf/base/parameters.yml.

    ``jobs``: the folders of each training, by job; :func:`with_defaults` adds them.
    """

    raw: LocalFolder
    views_raw: LocalFolder
    user_images: LocalFolder
    user_frames: LocalFolder
    images: LocalFolder
    views_images: LocalFolder
    consistency_images: LocalFolder
    models: LocalFolder
    imported: LocalFolder
    chosen: LocalFolder
    exported: LocalFolder
    shipped: LocalFolder
    scores: LocalFolder
    model_output: LocalFolder
    user_results: LocalFolder
    user_masks: LocalFolder
    user_overlays: LocalFolder
    report: LocalFolder
    parts: LocalFolder
    published: LocalFolder
    jobs: dict[str, LocalFolder] = Field({}, exclude=True)


class Parameters(Strict):
    """Every parameter that conf/ and ``--params`` may have, by its top-level name.

    Parameters with a default here are in no file: ``--params`` gives them, and a
    ``${runtime_params:…}`` in conf/ reads them. :func:`_schema` adds the jobs of all methods.
    """

    dataset: StrictStr
    folders: FoldersConfig
    restart: StrictBool
    tracking: StrictBool
    workers: StrictInt = Field(ge=0)
    pictures: StrictInt = Field(gt=0)
    score_threshold: float = Field(strict=True, ge=0, le=1)
    predictions: LocalPath | None
    prediction_masks: Literal["amodal", "visible"]
    inputs: _Inputs | None
    stage_one: StrictStr | None
    detector: StrictStr | None
    masks: LocalPath | None
    video: LocalPath | None
    library: Literal["torchvision", "detectron2"] | None = Field(alias="from")
    file: LocalPath | None
    raw: StrictBool
    png: StrictBool
    split: Literal["val", "test"]

    to: LocalPath | None = None
    scores: LocalPath | None = None
    method: StrictStr = "orcnn"
    images: LocalPath | None = None
    meshes: LocalPath | None = None
    raw_root: LocalPath | None = None
    views_root: LocalPath | None = None
    row: RowName | None = None

    source: Source
    audit: AuditConfig
    inference: InferenceConfig
    evaluation: EvaluationConfig
    occluder_consistency: VariantsConfig

    pretraining_views: Source
    order_net: OrderNetJob

    @model_validator(mode="before")
    @classmethod
    def _row_is_of_one_ablation(cls, values: dict[str, Any]) -> dict[str, Any]:
        """``row`` stands in every ablation; the one that runs is checked by Kedro."""
        row = values.get("row")
        tables = {
            name: value
            for name, value in values.items()
            if name.startswith("ablate_") and isinstance(value, dict) and value.get("rows")
        }
        if row is not None and not any(row in table["rows"] for table in tables.values()):
            known = sorted({name for table in tables.values() for name in table["rows"]})
            near = get_close_matches(str(row), known, n=1, cutoff=0.0)
            raise ValueError(f"row: no ablation has a row {row!r}; the nearest name is {near[0]}")
        return values | {k: {**table, "row": None} for k, table in tables.items()}


def _jobs() -> dict[str, type[Strict]]:
    """Return the pydantic models of the methods' parameters, by top-level name."""
    found: dict[str, type[Strict]] = {}
    for job, name in jobs().items():
        method = describe(job)
        if method.task == "order":
            continue  # its job chooses what it orders, too
        found[job] = Job
        if method.pretrained_on_views:
            found[f"pretrain_{job}"] = Job
        if method.task != "part" and job == name:
            found[f"ablate_{job}"] = AblationConfig
    return found


def with_defaults(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters together with the defaults of methods that conf/ does not mention.

    A job has its method's own values, and an ablation one row: the method as it is. ``folders``
    become paths, with one per training.
    """
    added: dict[str, Any] = {}
    folders = parameters.get("folders")
    if isinstance(folders, Mapping):
        trained = {*jobs(), *_jobs()}
        paths = {name: Path(folder) for name, folder in folders.items() if name != "jobs"}
        own = {job: Path(folders.get("models", "")) / job for job in sorted(trained)}
        given = {job: Path(folder) for job, folder in (folders.get("jobs") or {}).items()}
        added["folders"] = {**paths, "jobs": {**own, **given}}
    for job, name in jobs().items():
        if describe(job).task == "order":
            continue
        given = parameters.get(job) or {}
        model = given.get("model", {}) if isinstance(given, Mapping) else None
        if isinstance(model, Mapping):  # anything else is named when it is checked
            added[job] = {**given, "model": {"name": name, **model}}
    for key in _jobs().keys() - parameters.keys():
        if not key.startswith("ablate_"):
            continue
        job = key.removeprefix("ablate_")
        completes = (
            {"completes": Given.TRUE_MASKS.value} if describe(job).task == "complete" else {}
        )
        added[key] = {
            "reference": job,
            "metrics": ["completion/mIoU_full", "completion/mIoU_occluded"],
            "rows": {job: {"job": job, **completes}},
            "row": parameters.get("row"),
        }
    return {**parameters, **added}


class ParameterError(ClickException, ValueError):
    """A parameter that no run accepts; the command line prints it without a traceback."""


def check(parameters: Mapping[str, Any]) -> Parameters:
    """Return the parameters of a run with the defaults of methods, after checks of all of them.

    Names that begin with "_" are ignored: they are YAML anchors.

    Raises:
        ParameterError: names are unknown, or values are impossible; names each, with the nearest
            known name, or with the expected value.
    """
    given = {k: v for k, v in with_defaults(parameters).items() if not k.startswith("_")}
    try:
        return _schema().model_validate(given)
    except ValidationError as error:
        lines = [_sentence(each) for each in error.errors()]
        raise ParameterError("\n".join(["wrong parameters, nothing was run:", *lines])) from None


def _schema() -> type[Parameters]:
    fields = {name: (model, ...) for name, model in _jobs().items()}
    return create_model("AllParameters", __base__=Parameters, **fields)


def check_single_process(environment: Mapping[str, str]) -> None:
    """Check that no launcher has started this run several times (torchrun, ``torch.distributed``).

    Raises:
        ParameterError: one has; names the environment variable that shows it.
    """
    for name, alone in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        if (value := environment.get(name) or alone) != alone:
            raise ParameterError(
                f"{name}={value} in the environment says that torchrun has started this run "
                "several times, and a run is one process on one device: start it without torchrun"
            )


def check_place(project: Path) -> None:
    """Check that Kedro finds a project's configuration, for which it searches by a glob pattern.

    Raises:
        ParameterError: a folder's name has brackets, which are special in the pattern.
    """
    if not glob(str(project)):  # noqa: PTH207 - as Kedro does, on the whole path
        raise ParameterError(
            f"Kedro takes [ ] in {project} for a pattern and finds no configuration there: rename "
            "the folder"
        )


def check_method(folder: Path) -> None:
    """Check that a method, a checkpoint or shipped weights have the name of ``folder``.

    Raises:
        ParameterError: no method has that name, and the folder has no checkpoint; suggests a name.
    """
    trained = jobs().keys()
    if folder.name in trained or (with_shipped(folder) / "method.json").exists():
        return
    made = {card.parent.name for card in folder.parent.glob("*/method.json")}
    known = sorted(trained | made | set(shipped_weights()))
    near = get_close_matches(folder.name, known, n=1, cutoff=0.0)
    raise ParameterError(
        f"method={folder.name} is no method, and {folder} holds no checkpoint; the nearest name is "
        f"{near[0]}, and all are {', '.join(known)}"
    )


_METHODS = METHODS.keys()


def _sentence(error: Mapping[str, Any]) -> str:
    """Return a pydantic error as one line: place, reason, and the value where it helps."""
    location = [str(part) for part in error["loc"]]
    # Pydantic puts the name of the method that it chose beneath "model".
    names = [
        part
        for above, part in zip(["", *location], location, strict=False)
        if not (above == "model" and part in _METHODS)
    ]
    where = f"{'.'.join(names)}: " if names else ""
    what = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    own = error["type"] == "value_error"  # messages of this project already contain the value
    found = "" if own or isinstance(value, Mapping) else f", but it is {value!r}"
    return f"- {where}{what[:1].lower()}{what[1:]}{found}"
