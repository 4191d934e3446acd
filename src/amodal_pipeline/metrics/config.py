"""What to evaluate."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from amodal_pipeline.layers.configs import Seed, Strict

Protocol = Literal["coco", "coco_agnostic", "vrsp", "orcnn", "amodalapi", "completion", "order"]


class EvaluationConfig(Strict):
    """Choices of the evaluation.

    ``protocols``: those wanted; each gives what the predictions allow.
    ``occlusion_thresholds``: for each rate t, the average precisions once more with the objects
    whose occlusion rate is at most t ignored; 0.15 gives the suffix ``_occluded15``.
    ``vrsp_released``: also by the rule of VRSP's code, which judges detections by their own rate.
    ``per_category``: a row of AP and of mIoU for each category beside the mean over them.
    ``matched_by``: methods of this data set, already evaluated; the objects that all of them
    detected get figures of their own, ``…_common``.
    ``resamples``: of the bootstrap, for the figures in ``headline`` and for all others; 0 gives no
    intervals. All methods must share ``seed`` to be compared.
    """

    protocols: tuple[Protocol, ...] = get_args(Protocol)
    occlusion_thresholds: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.15,)
    vrsp_released: bool = False
    per_category: bool = True
    matched_by: tuple[str, ...] = ()
    headline: tuple[str, ...] = ("AP_amodal", "AP_amodal_occluded15", "mIoU_full", "mIoU_occluded")
    headline_resamples: int = Field(1000, ge=0)
    resamples: int = Field(200, ge=0)
    seed: Seed = 0

    @model_validator(mode="after")
    def _names_differ(self) -> "EvaluationConfig":
        names = [f"{100 * t:g}" for t in self.occlusion_thresholds]
        if len(set(names)) < len(names):
            raise ValueError(f"occlusion_thresholds {self.occlusion_thresholds} repeat a name")
        return self
