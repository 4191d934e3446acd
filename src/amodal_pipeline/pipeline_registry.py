"""The jobs that ``kedro run --pipeline=<name>`` knows."""

import warnings

from kedro.pipeline import Pipeline

from amodal_pipeline.pipelines import (
    ablate,
    consistency,
    evaluate,
    import_detector,
    mask_tokenizer,
    order_net,
    predict,
    prepare,
    report,
    shape_prior,
    train,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Every job by its name; ``__default__`` is the main job."""
    # Kedro advises against "orcnn.results" outside the namespace orcnn, but that is the only name
    # by which a report can ask for it.
    warnings.filterwarnings("ignore", message="One or more dataset names contain '.'")
    methods = ("mask_rcnn", "orcnn")
    return {
        "__default__": prepare.create_pipeline()
        + train.create_pipeline("mask_rcnn")
        + train.create_pipeline("orcnn", starts_from="mask_rcnn", in_same_run=True)
        + report.create_pipeline(methods),
        "prepare": prepare.create_pipeline(),
        "prepare_test": prepare.create_test_pipeline(),
        "train_mask_rcnn": prepare.create_pipeline()
        + train.create_pipeline("mask_rcnn")
        + report.create_pipeline(("mask_rcnn",)),
        "train_mask_rcnn_visible": prepare.create_pipeline()
        + train.create_pipeline("mask_rcnn_visible", starts_from="mask_rcnn")
        + report.create_pipeline(("mask_rcnn_visible",)),
        "train_orcnn": prepare.create_pipeline()
        + train.create_pipeline("orcnn", starts_from="mask_rcnn")
        + report.create_pipeline(("orcnn",)),
        "train_vrsp": prepare.create_pipeline()
        + shape_prior.create_pipeline()
        + train.create_pipeline("vrsp", starts_from="mask_rcnn", shape_prior=True)
        + report.create_pipeline(("vrsp",)),
        "train_c2f_seg": prepare.create_pipeline()
        + mask_tokenizer.create_pipeline(part=True)
        + train.create_completer_pipeline("c2f_seg")
        + report.create_pipeline(("c2f_seg",)),
        "pretrain_a3d": train.create_pretraining_pipeline("a3d"),
        "train_a3d": prepare.create_pipeline()
        + train.create_boxed_completer_pipeline("a3d")
        + report.create_pipeline(("a3d",)),
        "train_sln": prepare.create_pipeline()
        + train.create_pipeline("sln", starts_from="mask_rcnn")
        + report.create_pipeline(("sln",)),
        "train_order_net": prepare.create_pipeline() + order_net.create_pipeline(),
        "ablate_orcnn": prepare.create_pipeline()
        + ablate.create_pipeline("orcnn", jobs=("mask_rcnn", "orcnn")),
        "ablate_vrsp": prepare.create_pipeline()
        + shape_prior.create_pipeline()
        + ablate.create_pipeline("vrsp", jobs=("mask_rcnn", "orcnn", "vrsp"), shape_prior=True),
        "ablate_c2f_seg": prepare.create_pipeline()
        + mask_tokenizer.create_pipeline(part=True)
        + train.create_detection_pipeline("c2f_seg")
        + ablate.create_pipeline("c2f_seg", jobs=("c2f_seg",), completer=True, tokenizer=True),
        "ablate_a3d": prepare.create_pipeline()
        + train.create_detection_pipeline("a3d", training=False)
        + ablate.create_pipeline("a3d", jobs=("a3d",), completer=True, pretraining=True),
        "ablate_sln": prepare.create_pipeline()
        + ablate.create_pipeline("sln", jobs=("mask_rcnn", "sln")),
        "evaluate": evaluate.create_chosen_pipeline(),
        "export_predictions": predict.create_export_pipeline(),
        "import_detector": import_detector.create_pipeline(),
        "mask_tokenizer": prepare.create_pipeline() + mask_tokenizer.create_pipeline(),
        "occluder_consistency": consistency.create_pipeline(),
        "predict": predict.create_pipeline(),
        "report": report.create_pipeline(),
        "shape_prior": prepare.create_pipeline() + shape_prior.create_pipeline(),
    }
