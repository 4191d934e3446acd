"""Wiring of `ablate_<method>`: the same for every method."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.ablate import (
    ablate,
    choose_rows,
    choose_rows_with_pretraining,
    choose_rows_with_prior,
    choose_rows_with_tokenizer,
    show,
    summarise,
)
from amodal_pipeline.methods.registry import describe
from amodal_pipeline.pipelines.train import PARTS

_CHOICES = {"shape_prior": choose_rows_with_prior, "tokenizer": choose_rows_with_tokenizer}


def create_pipeline(method: str) -> Pipeline:
    """Return training and comparison of the rows in ``params:ablate_<method>``.

    What rows may begin with and need is what the description of the method says.
    """
    described = describe(method)
    jobs = (*described.compared_with, method)
    choose, part, detections, folders = choose_rows, {}, {}, {}
    for made, argument in (PARTS[needed.job] for needed in described.parts.values()):
        choose, part = _CHOICES[argument], {argument: made}
    if described.pretrained_on_views:
        choose = choose_rows_with_pretraining
        part = {"pretraining": f"params:pretrain_{method}", "views": "params:pretraining_views"}
        folders = {"views_images": "views_images", "views_raw": "views_raw"}
    if described.task == "complete":
        wanted = ["detections", "detector"]
        wanted += ["detections_train"] if described.learns_from_detections else []
        detections = {name: f"{method}.{name}" for name in wanted}
    name = f"ablate_{method}"
    shared = {f"params:{key}" for key in ("inference", "evaluation")}
    shared |= {f"params:{key}" for key in ("workers", "restart", "dataset")}
    shared |= {value for value in part.values() if value.startswith("params:")}
    steps = Pipeline(
        [
            node(
                choose,
                inputs=[f"params:{name}", *part.values(), *(f"params:{job}" for job in jobs)],
                outputs=["rows", "chosen"],
                name="choose_rows",
            ),
            node(
                ablate,
                inputs={
                    "chosen": "chosen",
                    "train": "annotations_train",
                    "val": "annotations_val",
                    "rows_folder": "folder",
                    "models": "models",
                    "output": "model_output",
                    "images": "images",
                    "parts": "parts",
                    "inference": "params:inference",
                    "evaluation": "params:evaluation",
                    "workers": "params:workers",
                    "restart": "params:restart",
                    # Kedro builds parameters by their place: first, as in the function.
                    **part,
                    **detections,
                    **folders,
                },
                outputs="done",
                name="ablate",
            ),
            node(
                summarise,
                inputs=[
                    f"params:{name}",
                    *("rows", "folder", "models", "parts", "annotations_val", "done"),
                ],
                outputs=["table", "chart", "loss_curves", "missing"],
                name="summarise",
            ),
            # With --only-missing-outputs a node without outputs runs, and so do those that make
            # what it needs and is no file: rows know by themselves what is finished.
            node(
                show,
                inputs=[f"params:{name}", "table", "missing", "params:dataset"],
                outputs=None,
                name="show",
            ),
        ],
    )
    return Pipeline(
        steps,
        namespace=name,
        tags="ablation",
        inputs={
            *("annotations_train", "annotations_val"),
            *("models", "model_output", "images", "parts"),
            *detections.values(),
            *folders.values(),
            *(value for value in part.values() if not value.startswith("params:")),
        },
        parameters=shared | {f"params:{key}" for key in (name, *jobs)},
    )
