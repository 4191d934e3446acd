"""What conf/ comes to in each environment, against a record of it.

`python -m tests.pipelines.test_configurations` writes the record anew: its diff is what an edit of
conf/ or of a default changes, in every environment.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amodal_pipeline.jobs.rows import Row, resolve
from amodal_pipeline.jobs.train import Pretraining
from amodal_pipeline.pipelines.parameters import check
from tests.pipelines.conftest import ENVIRONMENTS, configuration

RECORD = Path(__file__).with_name("configurations.json")


def resolved(env: str) -> dict[str, Any]:
    """Return the parameters of an environment and each row of its ablations, by dotted name."""
    loader = configuration(env)
    checked = check(loader["parameters"])
    found = checked.model_dump(mode="json")
    # Only the section that counts; an environment need not clear the others.
    chosen = checked.source.chosen.model_dump(mode="json")
    found["source"] = {"kind": checked.source.kind, checked.source.kind: chosen}
    jobs = {
        name: value for name in found if hasattr(value := getattr(checked, name, None), "model")
    }
    pretraining = Pretraining(checked.pretrain_a3d, checked.pretraining_views)
    for name in [name for name in found if name.startswith("ablate_")]:
        rows = resolve(getattr(checked, name), jobs, pretraining)
        found[name] |= {
            "order": list(rows),
            "rows": {row.name: dict(_differences(row, jobs)) for row in rows.values()},
        }
        del found[name]["training"]  # each row has it
    found["keep_versions"] = loader["globals"]["keep_versions"]
    # Other folders are those of the data set's name; ``raw`` is where its files are.
    found["folders"] = {"raw": found["folders"]["raw"]}
    return dict(_leaves(found))


def _differences(row: Row, jobs: dict) -> Iterator[tuple[str, Any]]:
    """What a row does not share with the job that it begins with."""
    yield "job", row.job.name
    yield "completes", row.completes
    yield "weights_of", row.weights_of.name if row.weights_of else None
    yield "composed", row.composed.model_dump(mode="json") if row.composed else None
    started = row.upstream
    yield "upstream", getattr(started, "name", None)
    if isinstance(started, Pretraining):
        own = dict(_leaves(jobs["pretrain_a3d"].model_dump(mode="json")))
        for name, value in _leaves(started.job.model_dump(mode="json")):
            if own.get(name) != value:
                yield f"pretraining.{name}", value
    base = row.job.name if row.job.name in jobs else row.job.model.root.name
    own = dict(_leaves(jobs[base].model_dump(mode="json")))
    for name, value in _leaves(row.job.model_dump(mode="json")):
        if name not in own or own[name] != value:
            yield name, value


def _leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _record() -> dict[str, Any]:
    """Return the value of each name, or, where they differ, values by environments."""
    found = {env: resolved(env) for env in ENVIRONMENTS}
    together: dict[str, Any] = {}
    for name in sorted({name for values in found.values() for name in values}):
        values: dict[str, list[str]] = {}
        for env in ENVIRONMENTS:
            if name in found[env]:
                values.setdefault(json.dumps(found[env][name]), []).append(env)
        together[name] = {" ".join(envs): json.loads(value) for value, envs in values.items()}
        if list(together[name]) == [" ".join(ENVIRONMENTS)]:
            (together[name],) = together[name].values()
    return together


def test_every_environment_comes_to_what_is_recorded():
    recorded, found = json.loads(RECORD.read_text()), _record()
    different = {
        name: (recorded.get(name), found.get(name))
        for name in recorded.keys() | found.keys()
        if recorded.get(name) != found.get(name)
    }
    assert not different


def test_the_small_networks_train_in_the_same_precision_on_every_processor():
    found = resolved("scenes")
    precisions = {n: v for n, v in found.items() if n.endswith(".training.precision")}
    assert precisions and set(precisions.values()) == {"float32"}, precisions


if __name__ == "__main__":
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in _record().items())
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
