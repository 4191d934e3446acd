"""Wiring of `report`."""

from kedro.pipeline import Pipeline, node

from amodal_pipeline.pipelines.report.nodes import compare, join_results, plot_results, report


def create_pipeline(methods: tuple[str, ...] = ()) -> Pipeline:
    """Join the results of all methods ever evaluated on the data set, and write the report.

    Args:
        methods: those evaluated in the same run; the report waits for them, and with several of
            them there is a picture that compares their predictions.
    """
    nodes = [
        node(
            join_results,
            inputs=["parts", "annotations_val", *(f"{m}.results" for m in methods)],
            outputs="results",
            name="join_results",
        ),
        node(plot_results, "results", "results_chart", name="plot_results"),
    ]
    pictures = ["results_chart"]
    pictures += [f"{m}.{kind}" for m in methods for kind in ("loss_curves", "overlays")]
    if len(methods) > 1:
        predictions = [f"{m}.predictions" for m in methods]
        nodes.append(
            node(
                compare,
                inputs=["annotations_val", "params:pictures", *predictions],
                outputs="comparison",
                name="compare",
            )
        )
        pictures.append("comparison")
    nodes.append(
        node(
            report,
            inputs=["report_folder", "results", "annotations_train", "annotations_val", *pictures],
            outputs="report",
            name="report",
        )
    )
    return Pipeline(nodes)
