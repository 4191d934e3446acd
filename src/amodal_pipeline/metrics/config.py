"""What to evaluate."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class EvaluationConfig(BaseModel):
    """Choices of the evaluation.

    ``occlusion_thresholds``: for each rate t, all COCO metrics once more with the objects whose
    occlusion rate is at most t ignored; 0.15 gives the suffix ``_occluded15``.
    ``class_agnostic``: categories are disregarded (protocol "coco_agnostic" instead of "coco").
    ``per_category``: one row of AP for each category beside the mean over them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    occlusion_thresholds: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.15,)
    class_agnostic: bool = False
    per_category: bool = True
