"""Wiring of `ablate_<method>`: the same for every method."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.ablate import (
    ablate,
    choose_rows,
    choose_rows_with_pretraining,
    choose_rows_with_prior,
    choose_rows_with_tokenizer,
    gather,
    show,
    summarise,
    workplace,
)
from amodal_pipeline.jobs.train import plan_views
from amodal_pipeline.methods.registry import describe
from amodal_pipeline.pipelines.train import PARTS

_CHOICES = {"shape_prior": choose_rows_with_prior, "tokenizer": choose_rows_with_tokenizer}


def create_pipeline(method: str) -> Pipeline:
    """Return training and comparison of the rows in ``params:ablate_<method>``.

    What rows may begin with and need is what the description of the method says.
    """
    described = describe(method)
    jobs = (*described.compared_with, method)
    name = f"ablate_{method}"
    choose, part, given = choose_rows, {}, {"train": "annotations_train"}
    for made, argument in (PARTS[needed.job] for needed in described.parts.values()):
        choose, part = _CHOICES[argument], {argument: made}
    plan = []
    if described.pretrained_on_views:
        choose, part = choose_rows_with_pretraining, {"views": "views"}
        wanted = [f"params:pretrain_{method}", "params:pretraining_views"]
        plan = [
            node(plan_views, [*wanted, "views_images", "views_raw"], "views", name="plan_views")
        ]
    given |= part
    if described.task == "complete":
        found = ["detections", "detector"]
        found += ["detections_train"] if described.learns_from_detections else []
        given |= {each: f"{method}.{each}" for each in found}
    own = f"params:{name}"
    steps = Pipeline(
        [
            *plan,
            node(
                choose,
                inputs=[own, *part.values(), *(f"params:{job}" for job in jobs)],
                outputs=["rows", "chosen"],
                name="choose_rows",
            ),
            node(
                workplace,
                inputs=[
                    *("folder", "models", "model_output", "parts"),
                    *("params:workers", "params:restart", "images"),
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
                    *("rows", "folder", "models", "parts", "annotations_val", "done"),
                ],
                outputs=["table", "chart", "loss_curves", "missing"],
                name="summarise",
            ),
            # With --only-missing-outputs a node without outputs runs, and so do those that make
            # what it needs and is no file: rows know by themselves what is finished.
            node(
                show,
                inputs=[own, "table", "missing", "params:dataset"],
                outputs=None,
                name="show",
            ),
        ],
    )
    free = steps.inputs()
    return Pipeline(
        steps,
        namespace=name,
        tags="ablation",
        inputs={each for each in free if not each.startswith("params:")} - {"folder"},
        parameters={each for each in free if each.startswith("params:")},
    )
