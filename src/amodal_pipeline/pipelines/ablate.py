"""Wiring of `ablate_<method>`: the same for every method."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.ablate import (
    ablate,
    choose_rows,
    choose_rows_with_pretraining,
    gather,
    gather_parts,
    show,
    summarise,
    train_upstream_of_rows,
    workplace,
)
from amodal_pipeline.jobs.train import plan_views
from amodal_pipeline.methods.registry import describe


def create_pipeline(method: str) -> Pipeline:
    """Return training and comparison of the rows in ``params:ablate_<method>``.

    The method's description says what its rows may start from and need.
    """
    described = describe(method)
    jobs = (*described.compared_with, method)
    name = f"ablate_{method}"
    choose, plan = choose_rows, []
    given = {"train": "annotations_train", "parts": "finished_parts"}
    made = [part.job for job in jobs for part in describe(job).parts.values()]
    parts = {part: f"{part}.checkpoint" for part in dict.fromkeys(made)}
    if described.pretrained_on_views:
        choose = choose_rows_with_pretraining
        given["views"] = "views"
        wanted = [f"params:pretrain_{method}", "params:pretraining_views"]
        plan = [
            node(
                plan_views,
                [*wanted, "params:folders.views_images", "params:folders.views_raw"],
                "views",
                name="plan_views",
            )
        ]
    upstream = described.starts_from if described.starts_from != method else None
    if upstream:
        given["upstream"] = f"{upstream}.checkpoint"
    if described.task == "complete":
        found = ["detections", "detector"]
        found += ["detections_train"] if described.learns_from_detections else []
        given |= {each: f"{method}.{each}" for each in found}
    own = f"params:{name}"
    steps = Pipeline(
        [
            *plan,
            node(gather_parts, parts or None, "finished_parts", name="gather_parts"),
            node(
                choose,
                inputs=[
                    *(own, "finished_parts", *(["views"] if plan else [])),
                    *(f"params:{job}" for job in jobs),
                ],
                outputs=["rows", "chosen"],
                name="choose_rows",
            ),
            node(
                workplace,
                inputs=[
                    *(
                        f"params:folders.jobs.{name}",
                        "params:folders.models",
                        "params:folders.model_output",
                        "params:folders.parts",
                    ),
                    *("params:workers", "params:restart", "params:folders.images"),
                ],
                outputs="place",
                name="workplace",
            ),
            node(gather, given, "given", name="gather"),
            node(
                ablate,
                inputs=[
                    *("chosen", "annotations_train", "annotations_val", "place", "given"),
                    *("params:inference", "params:evaluation"),
                ],
                outputs="done",
                name="ablate",
            ),
            node(
                summarise,
                inputs=[
                    own,
                    *(
                        "rows",
                        f"params:folders.jobs.{name}",
                        "params:folders.models",
                        "params:folders.parts",
                        "annotations_val",
                        "done",
                    ),
                ],
                outputs=["table", "chart", "loss_curves", "missing"],
                name="summarise",
            ),
            # With --only-missing-outputs this node runs, because it has no outputs, and so do the
            # nodes of its inputs that are not files: rows skip finished trainings by themselves.
            node(
                show,
                inputs=[own, "table", "missing", "params:dataset"],
                outputs=None,
                name="show",
            ),
        ],
    )
    free = steps.inputs()
    rows = Pipeline(
        steps,
        namespace=name,
        tags="ablation",
        inputs={each for each in free if not each.startswith("params:")},
        parameters={each for each in free if each.startswith("params:")},
    )
    # What a completer starts from is trained with its detector, in one upstream pipeline.
    if upstream is None or described.task == "complete":
        return rows
    return rows + _upstream(upstream, own, jobs)


def _upstream(upstream: str, ablation: str, jobs: tuple[str, ...]) -> Pipeline:
    """Return training of the method that rows start from, in its namespace; empty without one."""
    inputs = ["annotations_train", ablation, f"params:{upstream}"]
    inputs += [f"params:folders.jobs.{upstream}", "params:restart"]
    inputs += [f"params:{job}" for job in jobs]
    step = node(train_upstream_of_rows, inputs, "checkpoint", name="train", tags="upstream")
    return Pipeline([step], namespace=upstream, inputs={inputs[0]}, parameters=set(inputs[1:]))
