"""Wiring of `mask_tokenizer`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.mask_tokenizer import describe_mask_tokenizer
from amodal_pipeline.pipelines import train


def create_pipeline(*, wanted_by: str | None = None) -> Pipeline:
    """Return training of the tokenizer, and measurement of its reconstructions.

    ``wanted_by``: see :func:`~.train.create_part_pipeline`.
    """
    made = train.create_part_pipeline("mask_tokenizer", wanted_by=wanted_by)
    own = "params:mask_tokenizer"
    described = Pipeline(
        [
            node(
                describe_mask_tokenizer,
                inputs=[
                    *("checkpoint", "annotations_train", "annotations_val"),
                    *(own, "params:inference"),
                ],
                outputs=["reconstruction", "reconstructions"],
                name="describe_mask_tokenizer",
            )
        ],
        namespace="mask_tokenizer",
        inputs={"annotations_train", "annotations_val"},
        parameters={own, "params:inference"},
    )
    return made + described
