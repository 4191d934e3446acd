"""Wiring of `shape_prior`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.shape_prior import describe_shape_prior, draw_shape_prior
from amodal_pipeline.pipelines import train


def create_pipeline(*, wanted_by: str | None = None) -> Pipeline:
    """Return training of the shape prior, measurement of its reconstructions, and its pictures.

    ``wanted_by``: see :func:`~.train.create_part_pipeline`.
    """
    made = train.create_part_pipeline("shape_prior", wanted_by=wanted_by)
    own, pictures = "params:shape_prior", ["shape_prior_entries", "shape_prior_map"]
    described = Pipeline(
        [
            node(
                describe_shape_prior,
                inputs=["checkpoint", "annotations_train", "annotations_val", own],
                outputs="shape_prior_table",
                name="describe_shape_prior",
            ),
            node(draw_shape_prior, "checkpoint", pictures, name="draw_shape_prior"),
        ],
        namespace="shape_prior",
        inputs={"annotations_train", "annotations_val"},
        outputs={"shape_prior_table", *pictures},
        parameters={own},
    )
    return made + described
