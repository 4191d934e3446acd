"""The summary at the end of a run."""

from pathlib import Path

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

PRINTED = ("coco", "vrsp", "completion", "video")  # protocols in the summary; the report has all


class SummaryHook:
    """Prints the results and the path of the report at the end of a run that evaluated."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        if "results" not in pipeline.all_outputs() or not catalog.exists("results"):
            return
        from rich.table import Column, Table

        from amodal_pipeline.annotations import Given
        from amodal_pipeline.jobs.progress import plain_console
        from amodal_pipeline.metrics.results import summary_table
        from amodal_pipeline.visuals.comparisons import in_words, kinds
        from amodal_pipeline.visuals.definitions import MAIN_METRICS

        console = plain_console()
        results = catalog.load("results")
        for protocol in PRINTED:
            part = results[results["protocol"] == protocol]
            if part.empty:
                continue
            metrics = [m for m in MAIN_METRICS if (part["metric"] == m).any()]
            shown = summary_table(part, metrics)
            # As in the report, methods with other inputs than the image have their own table.
            for kind, lines in shown.groupby(kinds(shown["inputs"]), sort=False):
                given = "" if kind == Given.IMAGE else f", {in_words(kind)}"
                title = f"{results['dataset'].iloc[0]}, validation{given}: {protocol} (0–100)"
                # A row per metric and a column per method fit into a narrow terminal.
                table = Table(Column("metric", no_wrap=True), title=title)
                for line in lines[["method", "variant", "inputs"]].itertuples(index=False):
                    extra = [line.variant] if line.variant != "full" else []
                    extra += [f"on {line.inputs}"] if line.inputs not in (Given.IMAGE, kind) else []
                    table.add_column("\n".join([line.method, *extra]), justify="right")
                for metric in metrics:
                    table.add_row(metric, *(_text(value) for value in lines[metric]))
                console.print(table)
        folder = catalog.load("params:folders.report")
        console.print(f"Report and pictures: {folder / 'report.html'}", soft_wrap=True)
        if Path("Makefile").exists():
            console.print("Lineage: make viz")


def _text(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"
