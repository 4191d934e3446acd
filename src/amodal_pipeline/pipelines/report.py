"""Wiring of `report`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.jobs.report import compare, join_results, plot_results, report


def create_pipeline(methods: tuple[str, ...] = ()) -> Pipeline:
    """Return a pipeline that joins all results on the data set and writes the report.

    Args:
        methods: methods evaluated in the same run, which the report waits for.
    """
    evaluated = [f"{m}.results" for m in methods]
    predicted = [f"{m}.predictions" for m in methods]
    drawn = ["results_chart", "comparison"]
    drawn += [f"{m}.{kind}" for m in methods for kind in ("loss_curves", "overlays")]
    return Pipeline(
        [
            node(
                join_results,
                inputs=["params:folders.parts", "annotations_val", *evaluated],
                outputs="results",
                name="join_results",
            ),
            node(plot_results, "results", "results_chart", name="plot_results"),
            node(
                compare,
                inputs=[
                    "params:folders.parts",
                    "annotations_val",
                    "params:folders.model_output",
                    "params:pictures",
                    *predicted,
                    *evaluated,
                ],
                outputs="comparison",
                name="compare",
            ),
            node(
                report,
                inputs=[
                    "params:folders.report",
                    "results",
                    "annotations_train",
                    "annotations_val",
                    "params:folders.parts",
                    "params:folders.published",
                    "params:folders.models",
                    *drawn,
                ],
                outputs="report",
                name="report",
            ),
        ]
    )
