"""Wiring of `mask_tokenizer`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.mask_tokenizer import describe_mask_tokenizer
from amodal_pipeline.jobs.train import choose_start, plot_losses, train, train_part


def create_pipeline(*, part: bool = False) -> Pipeline:
    """Training of the tokenizer, and how well masks come back.

    Args:
        part: it is wanted for a method, which ``restart`` is meant for.
    """
    own = "params:mask_tokenizer"
    return Pipeline(
        [
            node(choose_start, own, "start", name="start"),
            node(
                train_part if part else train,
                inputs=["annotations_train", own, "folder", "params:restart", "start"],
                outputs=["checkpoint", "history"],
                name="train",
                tags="training",
            ),
            node(plot_losses, [own, "history"], "loss_curves", name="plot_losses"),
            node(
                describe_mask_tokenizer,
                inputs=[
                    "checkpoint",
                    "annotations_train",
                    "annotations_val",
                    own,
                    "params:inference",
                ],
                outputs=["reconstruction", "reconstructions"],
                name="describe_mask_tokenizer",
            ),
        ],
        namespace="mask_tokenizer",
        inputs={"annotations_train", "annotations_val"},
        parameters={own, "params:restart", "params:inference"},
    )
