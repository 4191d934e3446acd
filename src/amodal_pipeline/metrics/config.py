"""Configuration of the evaluation."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import Seed, Strict

Protocol = Literal[
    "coco", "coco_agnostic", "vrsp", "orcnn", "amodalapi", "completion", "order", "video"
]


class EvaluationConfig(Strict):
    """Choices of the evaluation.

    ``protocols``: those to evaluate; each gives the figures that the predictions allow.
    ``occlusion_thresholds``: for each rate t, average precisions are also computed with the objects
    whose occlusion rate is at most t ignored; 0.15 gives the suffix ``_occluded15``.
    ``vrsp_released``: also use the rule of VRSP's code, which judges detections by their own rate.
    ``per_category``: give a row of AP and of mIoU per category in addition to the mean.
    ``matched_by``: methods of this data set that were evaluated before; the objects that all of
    them detected get separate figures, ``…_common``.
    ``resamples``: number for the bootstrap, for the figures in ``headline``
    (``headline_resamples``) and for all others; 0 gives no intervals. Methods must share ``seed``
    to be compared.
    """

    protocols: tuple[Protocol, ...] = get_args(Protocol)
    occlusion_thresholds: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.15,)
    vrsp_released: bool = False
    per_category: bool = True
    matched_by: tuple[str, ...] = ()
    headline: tuple[str, ...] = (
        "AP_amodal",
        "AP_amodal_occluded15",
        "mIoU_full",
        "mIoU_occluded",
        "mIoU_full_per_object",
        "mIoU_occluded_per_object",
    )
    headline_resamples: int = Field(1000, ge=0)
    resamples: int = Field(200, ge=0)
    seed: Seed = 0

    @model_validator(mode="after")
    def _names_differ(self) -> "EvaluationConfig":
        names = [f"{100 * t:g}" for t in self.occlusion_thresholds]
        if len(set(names)) < len(names):
            raise ValueError(
                f"occlusion_thresholds {self.occlusion_thresholds} give one name twice: remove one"
            )
        return self
