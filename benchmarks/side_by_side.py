"""One method against others on one data set: figures, by category, and paired differences.

    python benchmarks/side_by_side.py data/08_reporting/views_unseen --method a3d \
        [--out benchmarks/results/views_unseen.json]

Rows of other inputs know other things: a difference is taken between rows of the same inputs, and
between what completes a detector's objects and that detector itself.
"""

import argparse
from pathlib import Path

import pandas as pd

from amodal_pipeline.metrics.bootstrap import compare
from amodal_pipeline.metrics.score_files import load_scores
from amodal_pipeline.metrics.scores import join
from record import write

METRICS = ("mIoU_full", "mIoU_occluded", "mIoU_full_matched", "mIoU_occluded_matched", "AP_amodal")
SIDE = ["method", "variant", "inputs"]


def main(folder: Path, method: str, out: Path | None) -> None:
    stems = sorted(p.stem for p in (folder / "parts").glob("*.csv"))
    scores = join(load_scores(folder / "parts", stem) for stem in stems)
    shown = scores.results[
        scores.results["metric"].isin(METRICS)
        & scores.results["protocol"].isin(("completion", "coco"))
    ]
    sides = shown[SIDE].drop_duplicates().to_dict("records")
    own = [side for side in sides if side["method"] == method and side["variant"] == "full"]
    write(
        {
            "folder": folder.name,
            "methods": [side | _figures(_rows(shown, side)) for side in sides],
            "differences": [
                {"of": one, "from": other, **_difference(scores.draws, one, other)}
                for one in own
                for other in sides
                if other != one and _comparable(one, other)
            ],
        },
        out,
    )


def _rows(table: pd.DataFrame, side: dict) -> pd.DataFrame:
    return table[(table[SIDE] == pd.Series(side)).all(axis=1)]


def _comparable(one: dict, other: dict) -> bool:
    return other["inputs"] == one["inputs"] or (
        other["method"] == one["inputs"] and other["inputs"] == "image"
    )


def _figures(rows: pd.DataFrame) -> dict:
    overall = rows[rows["category"] == "all"].set_index("metric")["value"]
    by_category = rows[(rows["category"] != "all") & (rows["metric"] == "mIoU_full")]
    return {
        **overall.round(2).to_dict(),
        "mIoU_full_by_category": by_category.set_index("category")["value"].round(1).to_dict(),
    }


def _difference(draws: pd.DataFrame, one: dict, other: dict) -> dict:
    found = compare(draws, one, other)
    found = found[found["metric"].isin(METRICS) & found["protocol"].isin(("completion", "coco"))]
    return {
        row.metric: [round(float(v), 2) for v in (row.difference, row.low, row.high)]
        for row in found.itertuples()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    main(given.folder, given.method, given.out)
