"""Check of whether predictions can be scored against annotations."""

import numpy as np
import pandas as pd

from amodal_pipeline.annotations import rle
from amodal_pipeline.annotations.tables import AmodalAnnotations, Predictions


def check(annotations: AmodalAnnotations, predictions: Predictions) -> None:
    """Raise an error if predictions do not belong to the annotations or cannot be scored.

    Raises:
        ValueError: names the method, what is wrong and the remedy.
    """
    truth, metadata, table = annotations.metadata, predictions.metadata, predictions.predictions
    whose = f"predictions of {metadata.method!r} (variant {metadata.variant!r})"
    here = f"the annotations {truth.dataset}/{truth.split}"
    if (metadata.dataset, metadata.split) != (truth.dataset, truth.split):
        raise ValueError(
            f"{whose} are for {metadata.dataset}/{metadata.split}, not for {here}: "
            "evaluate them against their own data set and split, or predict again"
        )

    names = [category.name for category in truth.categories]
    taken = [name for name in names if names.count(name) > 1 or name == "all"]
    if taken:
        raise ValueError(
            f"{here} have a category named {taken[0]!r}, which is ambiguous in the results: "
            "give each category a name of its own"
        )
    for name in ("prediction_id", "image_id", "category_id"):
        if table[name].isna().any():
            raise ValueError(
                f"{whose}: {table[name].isna().sum()} have no {name}: give every prediction one"
            )

    known = annotations.images["image_id"].to_numpy(dtype=np.int64)
    seen = predictions.images["image_id"].to_numpy(dtype=np.int64)
    used = table["image_id"].to_numpy(dtype=np.int64)
    unknown = np.setdiff1d(np.concatenate([seen, used]), known)
    if len(unknown):
        raise ValueError(
            f"{whose} are for {len(unknown)} images that {here} do not have, e.g. image "
            f"{unknown[0]}: predict again on these annotations"
        )
    unseen = np.setdiff1d(known, seen)
    if len(unseen):
        raise ValueError(
            f"{whose} leave out {len(unseen)} of {len(known)} images of {here}, e.g. image "
            f"{unseen[0]}: predict those too, or evaluate on annotations.subset(image_ids)"
        )
    categories = np.setdiff1d(
        table["category_id"].to_numpy(dtype=np.int64), [c.id for c in truth.categories]
    )
    if len(categories):
        raise ValueError(
            f"{whose} use the category {categories[0]}, which {here} do not have: map the "
            f"method's categories to {[c.id for c in truth.categories]}"
        )

    if len(np.unique(table["prediction_id"].to_numpy(dtype=np.int64))) != len(table):
        raise ValueError(f"{whose} use a prediction_id twice: number them uniquely")
    if metadata.annotations and metadata.annotations != truth.fingerprint:
        raise ValueError(
            f"{whose} were made for another version of {here} (their content differs): predict "
            "again, or load the version of the annotations that they were made for"
        )
    score = table["score"].to_numpy(dtype=np.float32, na_value=np.nan)
    if not np.isfinite(score).all():
        row = table[~np.isfinite(score)].iloc[0]
        raise ValueError(
            f"prediction {row['prediction_id']} of {metadata.method!r} has no finite score: "
            "give every prediction one (1 if the method has none)"
        )
    order = np.argsort(known)
    sizes = annotations.images[["height", "width"]].to_numpy(dtype=np.int64)
    sizes = sizes[order[np.searchsorted(known[order], used)]]
    for column in ("amodal_rle", "visible_rle", "invisible_rle"):
        there = np.flatnonzero(table[column].notna())
        found = rle.problems(table[column].iloc[there].tolist(), sizes[there])
        bad = np.flatnonzero(pd.notna(found))
        if len(bad):
            raise ValueError(
                f"prediction {table['prediction_id'].iloc[there[bad[0]]]} of {metadata.method!r}: "
                f"{column}: {found[bad[0]]}: predict again, with masks on the full image's canvas"
            )
