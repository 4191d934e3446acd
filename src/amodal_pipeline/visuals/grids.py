"""Pages of pictures: truth next to predictions, a preview of a data set, one image's overlay."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from amodal_pipeline.annotations import AmodalAnnotations, Predictions, rle
from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.levels import VisibilityLevels, levels_of_image
from amodal_pipeline.annotations.tables import boxes
from amodal_pipeline.visuals.colours import EMPTY, FAINT, INK, PAPER, object_colours
from amodal_pipeline.visuals.overlays import draw_layers, draw_objects, draw_order
from amodal_pipeline.visuals.selection import spread
from amodal_pipeline.visuals.text import font, quantity, shortened
from amodal_pipeline.visuals.worst import file_name_of, image_or_grey

CELL = 360  # width of a picture in a grid, pixels; wide images get up to 1.6 times as much
MATCH_IOU = 0.5  # a prediction takes the colour of the true object it overlaps this much

_CONTEXT = 0.9  # of an object's longer side: what a cut-out shows to each side of its middle
_TALLEST = 1.25  # of its width, a cell's height; longer images are shown smaller
_SHARPNESS = 2  # pictures are drawn this many times larger and reduced: lines come out smooth
_MARGIN, _GAP = 24, 10
_NO_ORDER = np.zeros((0, 2), np.int64)
_LAYERS_NOTE = "the more objects are hidden, the darker the layer"

Progress = Callable[[int, int], None]


def prediction_grid(
    annotations: AmodalAnnotations,
    predictions: dict[str, Predictions],
    image_ids: Sequence[int],
    score_threshold: float = 0.5,
    on_progress: Progress | None = None,
    remarks: Mapping[int, str] | None = None,
    order: bool = False,
) -> Image.Image:
    """Draw one row per image: the image, the truth, and one column per method.

    A prediction has the colour of the true object that it completes (``instance_id``) or overlaps
    (amodal IoU of at least 0.5, one to one, best scores first).

    Args:
        predictions: column heading → predictions for images of ``annotations``.
        image_ids: the rows, top to bottom.
        score_threshold: predictions below it are not drawn; those without a score are.
        remarks: image id → beginning of its caption.
        order: draw arrows from objects to those behind them, by the truth or by the method, and
            a column of the true layers.

    Raises:
        ValueError: an image is not in ``annotations``, cannot be read, or has another size than
            a table says; a mask does not fit it.
    """
    headings = ["Image", "Truth", *(["Layers"] if order else []), *predictions]
    rows, cell = [], _cell_width(annotations.images, image_ids)
    for done, image_id in enumerate(image_ids):
        image = _read(annotations.images, annotations.metadata.image_root, image_id)
        truth = _drawable(annotations.of_image(image_id))
        pairs = _true_order(annotations, truth, image_id) if order else _NO_ORDER
        cells = [_picture(image, cell), _picture(image, cell, truth, pairs=pairs)]
        if order:
            cells.append(_layers(image, cell, levels_of_image(annotations, image_id)))
        for method, predicted in predictions.items():
            _check_canvas(predicted, method, image_id, image.shape[:2])
            if not (predicted.images["image_id"] == image_id).any():
                cells.append(None)
                continue
            objects = _confident(predicted.of_image(image_id), score_threshold)
            colours = _colours_of_truth(objects, truth, image.shape[:2])
            pairs = _predicted_order(predicted, objects, image_id) if order else _NO_ORDER
            cells.append(_picture(image, cell, objects, colours, pairs))
        hidden = truth["occlusion_rate"].max() if len(truth) else 0.0
        caption = (
            f"{file_name_of(annotations.images, image_id)}  ·  {quantity(len(truth), 'object')}, "
            f"up to {hidden:.0%} occluded"
        )
        if remarks and image_id in remarks:
            caption = f"{remarks[image_id]}  ·  {caption}"
        rows.append((cells, caption))
        if on_progress is not None:
            on_progress(done + 1, len(image_ids))
    title = f"{annotations.metadata.dataset}, {annotations.metadata.split}"
    notes = [f"Predictions with a score of at least {score_threshold:g}"] if predictions else []
    notes += ["Arrows point from an object to one behind it; " + _LAYERS_NOTE] if order else []
    note = "  ·  ".join(notes)
    return _page(title, note, headings, rows, cell, "One colour per object, across its row")


def occluder_grid(
    variants: AmodalAnnotations, predictions: Predictions, appearances: pd.DataFrame, count: int
) -> Image.Image:
    """Draw objects under several occluders: for each a row of truth and a row of predictions.

    Pictures are cut out around the object; only its masks are drawn.

    Args:
        variants: the pictures.
        predictions: of one method for these pictures.
        appearances: track_id, instance_id, image_id, prediction_id and consistency (0–1) of each
            object in each picture.
        count: of objects, evenly spaced from the most to the least consistent one.
    """
    ranked = appearances.sort_values(["consistency", "track_id"], ascending=[False, True])
    tracks = ranked["track_id"].unique()
    chosen = tracks[np.unique(np.linspace(0, len(tracks) - 1, count).round().astype(int))]
    truth = variants.instances.set_index("instance_id")
    found = predictions.predictions.set_index("prediction_id")
    names = {c.id: c.name for c in variants.metadata.categories}
    rows, across = [], 1
    for index, track in enumerate(chosen):
        of_track = appearances[appearances["track_id"] == track].sort_values("image_id")
        true = truth.loc[of_track["instance_id"]]
        across = max(across, len(true))
        images = [
            _read(variants.images, variants.metadata.image_root, i) for i in of_track["image_id"]
        ]
        window = _around(boxes(true["amodal_box"])[0], images[0].shape[:2])
        colours = object_colours(np.array([index]))
        drawn = ([], [])
        for image, (_, whole), identity in zip(
            images, true.iterrows(), of_track["prediction_id"], strict=True
        ):
            rest = found.iloc[:0] if pd.isna(identity) else found.loc[[identity]]
            for cells, objects in zip(drawn, (whole.to_frame().T, rest), strict=True):
                cut = _cut_out(objects, image.shape[:2], window)
                cells.append(_picture(image[window], CELL, cut, colours[: len(cut)]))
        hidden = true["occlusion_rate"].to_numpy(dtype=np.float64)
        rows.append(
            (drawn[0], f"{names[int(true['category_id'].iloc[0])]}, {_percent(hidden)} occluded")
        )
        missing = int(of_track["prediction_id"].isna().sum())
        caption = (
            f"{predictions.metadata.method}  ·  IoU of every two of its masks "
            f"{100 * of_track['consistency'].iloc[0]:.1f} on average"
        )
        if missing:
            caption += f", counting 0 where it has none ({missing} of {len(true)})"
        rows.append((drawn[1], caption))
    return _page(
        f"{variants.metadata.dataset}, {variants.metadata.split}, under several occluders",
        "From the most to the least consistent object: the truth, and below it the prediction",
        [f"Occluder {i + 1}" for i in range(across)],
        rows,
        CELL,
        "One colour per object",
    )


def preview_sheet(
    annotations: AmodalAnnotations,
    count: int = 12,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Image.Image:
    """Draw ``count`` images of a data set, from lightly to heavily occluded, with the truth.

    An image that cannot be read is grey, and its caption says so.
    """
    image_ids = spread(annotations, count, seed)
    across = int(min(4, max(1, len(image_ids))))
    cells, captions, cell = [], [], _cell_width(annotations.images, image_ids)
    for done, image_id in enumerate(image_ids):
        record = _record(annotations.images, image_id)
        canvas = int(record["height"]), int(record["width"])
        image, problem = image_or_grey(annotations, record["file_name"], canvas)
        truth = _drawable(annotations.of_image(image_id))
        cells.append(_picture(image, cell, truth))
        captions.append(f"{record['file_name']}  ·  {quantity(len(truth), 'object')}{problem}")
        if on_progress is not None:
            on_progress(done + 1, len(image_ids))
    rows = [(cells[i : i + across], captions[i : i + across]) for i in range(0, len(cells), across)]
    title = f"{annotations.metadata.dataset}, {annotations.metadata.split}"
    return _page(title, statistics_line(annotations), None, rows, cell, "One colour per object")


def overlay(predictions: Predictions, image_id: int, score_threshold: float = 0.5) -> Image.Image:
    """Draw the predictions for one image, each object labelled with category and score.

    Arrows point from an object to one behind it, where the method says who is in front. An object
    of a video is labelled with its track too, which says its colour; it is left out where its masks
    are empty.

    The picture has the image's size. A small image is enlarged by a whole number, to at least 640
    pixels on the longer side, to make room for the labels.

    Raises:
        ValueError: as :func:`prediction_grid`.
    """
    image = _read(predictions.images, predictions.metadata.image_root, image_id)
    objects = _confident(predictions.of_image(image_id), score_threshold)
    colours = None
    if len(objects) and objects["track_id"].notna().all():
        masks = (objects[f"{kind}_rle"].tolist() for kind in ("amodal", "visible"))
        objects = objects[np.any([rle.area(each) > 0 for each in masks], axis=0)]
        colours = object_colours(objects["track_id"].to_numpy(dtype=np.int64))
    names = {c.id: c.name for c in predictions.metadata.categories}
    labels = [
        names.get(int(c), f"category {c}")
        + ("" if pd.isna(track) else f" {track}")
        + ("" if pd.isna(s) else f" {s:.2f}")
        for c, track, s in zip(
            *(objects[name] for name in ("category_id", "track_id", "score")), strict=True
        )
    ]
    height, width = image.shape[:2]
    times = max(1, -(-640 // max(height, width)))
    amodal, visible = _masks(objects, (height, width))
    size = (height * times, width * times)
    drawn = draw_objects(image, amodal, visible, colours=colours, labels=labels, size=size)
    pairs = _predicted_order(predictions, objects, image_id)
    if len(pairs):
        drawn = draw_order(drawn, amodal, visible, pairs, (height, width), colours=colours)
    return Image.fromarray(drawn)


def statistics_line(annotations: AmodalAnnotations) -> str:
    """Return a line on images, objects, the share of occluded objects, and their mean rate."""
    counted = annotations.instances[~annotations.instances["ignore"].to_numpy(dtype=bool)]
    rates = counted["occlusion_rate"].to_numpy(dtype=np.float64)
    hidden = rates[rates > 0]
    line = f"{quantity(len(annotations.images), 'image')}  ·  {quantity(len(rates), 'object')}"
    if len(rates):
        line += f"  ·  {len(hidden) / len(rates):.0%} of them occluded"
    if len(hidden):
        line += f", by {hidden.mean():.0%} on average"
    return line


def _record(images: pd.DataFrame, image_id: int) -> pd.Series:
    record = images[(images["image_id"] == image_id).to_numpy(dtype=bool)]
    if not len(record):
        raise ValueError(
            f"image {image_id} is not in the table of images: choose one of its column image_id"
        )
    return record.iloc[0]


def _read(images: pd.DataFrame, root: str, image_id: int) -> np.ndarray:
    record = _record(images, image_id)
    return read_image(root, record["file_name"], (int(record["height"]), int(record["width"])))


def _check_canvas(
    predictions: Predictions, method: str, image_id: int, canvas: tuple[int, int]
) -> None:
    record = predictions.images[(predictions.images["image_id"] == image_id).to_numpy(dtype=bool)]
    for height, width in zip(record["height"], record["width"], strict=True):
        if (height, width) != canvas:
            raise ValueError(
                f"{method}: image {image_id} is {height}x{width} in the table of predictions and "
                f"{canvas[0]}x{canvas[1]} in the annotations: predict again on these annotations"
            )


def _drawable(instances: pd.DataFrame) -> pd.DataFrame:
    return instances[~instances["ignore"].to_numpy(dtype=bool)]


def _confident(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    score = predictions["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    return predictions[~(score < threshold)]


def _masks(
    objects: pd.DataFrame, canvas: tuple[int, int]
) -> tuple[list[str | None], list[str | None]]:
    """Return amodal and visible masks, visible ones from the invisible where only these exist."""
    amodal, visible = _strings(objects["amodal_rle"]), _strings(objects["visible_rle"])
    if "invisible_rle" in objects:
        invisible = _strings(objects["invisible_rle"])
        for i, (a, v, hidden) in enumerate(zip(amodal, visible, invisible, strict=True)):
            if a is not None and v is None and hidden is not None:
                _check_masks([a, hidden], canvas)
                visible[i] = rle.difference([a], [hidden])[0]
    return amodal, visible


def _strings(column: pd.Series) -> list[str | None]:
    return [None if absent else v for v, absent in zip(column, column.isna(), strict=True)]


def _check_masks(masks: Sequence[str], canvas: tuple[int, int]) -> None:
    reasons = [r for r in rle.problems(masks, canvas) if r is not None]
    if reasons:
        raise ValueError(
            f"a predicted mask does not fit its image: {reasons[0]}: predict again on these images"
        )


def _colours_of_truth(
    predicted: pd.DataFrame, truth: pd.DataFrame, canvas: tuple[int, int]
) -> np.ndarray:
    """Return colours uint8 [N, 3]: those of the matched true objects, new ones for the others."""
    masks = [
        v if a is None else a
        for a, v in zip(
            *(_strings(predicted[c]) for c in ("amodal_rle", "visible_rle")), strict=True
        )
    ]
    _check_masks([m for m in masks if m is not None], canvas)
    overlap = rle.iou(masks, truth["amodal_rle"].tolist(), canvas)
    position = {int(i): k for k, i in enumerate(truth["instance_id"])}
    index = np.full(len(predicted), -1, np.int64)
    for row, instance in enumerate(predicted["instance_id"]):
        index[row] = -1 if pd.isna(instance) else position.get(int(instance), -1)
    free = ~np.isin(np.arange(len(truth)), index)
    score = predicted["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    for row in np.argsort(-score, kind="stable"):
        if index[row] < 0 and free.any():
            best = int(np.argmax(np.where(free, overlap[row], -1)))
            if overlap[row, best] >= MATCH_IOU:
                index[row], free[best] = best, False
    unmatched = index < 0
    index[unmatched] = len(truth) + np.arange(unmatched.sum())
    return object_colours(index)


def _cell_width(images: pd.DataFrame, image_ids: Sequence[int]) -> int:
    """Return a cell's width in pixels, larger for wide images (driving data) to keep them tall."""
    shown = images[images["image_id"].isin(list(image_ids)).to_numpy(dtype=bool)]
    if not len(shown):
        return CELL
    aspect = shown["width"].to_numpy(np.float64) / shown["height"].to_numpy(np.float64)
    return round(CELL * float(np.clip(np.sqrt(np.median(aspect) / 1.5), 1, 1.6)))


def _true_order(annotations: AmodalAnnotations, truth: pd.DataFrame, image_id: int) -> np.ndarray:
    order = annotations.order[(annotations.order["image_id"] == image_id).to_numpy(dtype=bool)]
    return _positions(truth["instance_id"], order["occluder_id"], order["occludee_id"])


def _predicted_order(predicted: Predictions, objects: pd.DataFrame, image_id: int) -> np.ndarray:
    order = predicted.order[(predicted.order["image_id"] == image_id).to_numpy(dtype=bool)]
    return _positions(objects["prediction_id"], order["front_id"], order["back_id"])


def _positions(ids: pd.Series, front: pd.Series, back: pd.Series) -> np.ndarray:
    """Return pairs as positions among ids, int64 [P, 2], without pairs of other ids."""
    known = pd.Index(ids.to_numpy(dtype=np.int64))
    pairs = np.stack([known.get_indexer(end) for end in (front, back)], axis=1)
    return pairs[(pairs >= 0).all(axis=1)]


def _picture(
    image: np.ndarray,
    cell: int,
    objects: pd.DataFrame | None = None,
    colours: np.ndarray | None = None,
    pairs: np.ndarray = _NO_ORDER,
) -> Image.Image:
    canvas = image.shape[:2]
    amodal, visible = ([], []) if objects is None else _masks(objects, canvas)
    drawn = draw_objects(image, amodal, visible, colours=colours, size=_drawn_size(image, cell))
    if len(pairs):
        drawn = draw_order(drawn, amodal, visible, pairs, canvas, colours=colours)
    return Image.fromarray(drawn).reduce(_SHARPNESS)


def _layers(image: np.ndarray, cell: int, levels: VisibilityLevels) -> Image.Image:
    return Image.fromarray(draw_layers(image, levels, _drawn_size(image, cell))).reduce(_SHARPNESS)


def _drawn_size(image: np.ndarray, cell: int) -> tuple[int, int]:
    """Return the (height, width) in which a picture is drawn before it is reduced to its cell."""
    height, width = image.shape[:2]
    scale = min(cell / width, _TALLEST * cell / height)
    return tuple(max(1, round(side * scale)) * _SHARPNESS for side in (height, width))


def _around(box: np.ndarray, canvas: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of a square around a box (x, y, width, height) within the canvas."""
    x, y, width, height = box.tolist()
    side = round(2 * _CONTEXT * max(width, height))
    slices = []
    for middle, whole in ((y + height / 2, canvas[0]), (x + width / 2, canvas[1])):
        start = max(0, min(round(middle - side / 2), whole - side))
        slices.append(slice(start, min(start + side, whole)))
    return slices[0], slices[1]


def _cut_out(
    objects: pd.DataFrame, canvas: tuple[int, int], window: tuple[slice, slice]
) -> pd.DataFrame:
    """Return amodal and visible masks cut to a window of the canvas."""
    masks = [
        [None if m is None else rle.encode(rle.decode([m], canvas)[(..., *window)])[0] for m in of]
        for of in _masks(objects, canvas)
    ]
    return pd.DataFrame({"amodal_rle": masks[0], "visible_rle": masks[1]})


def _percent(rates: np.ndarray) -> str:
    low, high = f"{100 * rates.min():.0f}", f"{100 * rates.max():.0f}"
    return f"{low} %" if low == high else f"{low}–{high} %"


def _page(
    title: str,
    note: str,
    headings: Sequence[str] | None,
    rows: Sequence[tuple[Sequence[Image.Image | None], str | Sequence[str]]],
    cell: int,
    legend: str,
) -> Image.Image:
    """Draw cells in columns of equal width, with title, column headings, captions and legend."""
    columns = max([len(cells) for cells, _ in rows] + [len(headings or []), 1])
    inner = columns * cell + (columns - 1) * _GAP
    # Title and legend need this much, even above a single column.
    inner = max(inner, 2 * cell + _GAP)
    heights = [max([c.height for c in cells if c is not None]) for cells, _ in rows]
    top = _MARGIN + 34 + (26 if note else 0) + (34 if headings else 12)
    total = top + sum(h + 34 for h in heights) + 44 + _MARGIN
    page = Image.new("RGB", (inner + 2 * _MARGIN, total), PAPER)
    draw = ImageDraw.Draw(page)

    y = _MARGIN
    _write(draw, (_MARGIN, y), inner, title, size=22, bold=True)
    y += 34
    if note:
        _write(draw, (_MARGIN, y), inner, note, ink=FAINT)
    for i, heading in enumerate(headings or []):
        _write(draw, (_left(i, cell), top - 26), cell, str(heading), size=16, bold=True)
    y = top
    for (cells, caption), height in zip(rows, heights, strict=True):
        for i, picture in enumerate(cells):
            x = _left(i, cell)
            if picture is None:
                draw.rectangle((x, y, x + cell - 1, y + height - 1), fill=EMPTY)
                _write(draw, (x + 12, y + 10), cell - 24, "No prediction", ink=FAINT)
            else:
                page.paste(picture, (x + (cell - picture.width) // 2, y))
        texts = [caption] if isinstance(caption, str) else caption
        for i, text in enumerate(texts):
            room = inner if isinstance(caption, str) else cell
            at = (_left(i, cell), y + height + 6)
            _write(draw, at, room, text, size=13, ink=FAINT)
        y += height + 34
    _legend(page, draw, y + 10, inner, legend)
    return page


def _left(column: int, cell: int) -> int:
    return _MARGIN + column * (cell + _GAP)


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    room: int,
    text: str,
    *,
    size: int = 14,
    bold: bool = False,
    ink: tuple[int, int, int] = INK,
) -> None:
    style = font(size, bold)
    draw.text(at, shortened(text, style, room), font=style, fill=ink)


def _legend(page: Image.Image, draw: ImageDraw.ImageDraw, y: int, room: int, remark: str) -> None:
    """Draw three swatches by the function that drew the objects."""
    high, wide = 22, 44
    # Objects of the swatch's size on a picture of a cell's size: the same line widths as there.
    canvas = (3 * CELL // 4, CELL)
    grey = np.full((*canvas, 3), 222, np.uint8)
    whole = np.zeros((1, *canvas), np.uint8)
    whole[:, :high, :wide] = 1
    colour = object_colours(range(1))
    x = _MARGIN
    for text, seen in (("visible part", whole), ("occluded part", np.zeros_like(whole))):
        drawn = draw_objects(
            grey,
            rle.encode(whole),
            rle.encode(seen),
            colours=colour,
            size=(canvas[0] * _SHARPNESS, canvas[1] * _SHARPNESS),
        )
        swatch = Image.fromarray(drawn).reduce(_SHARPNESS).crop((0, 0, wide, high))
        page.paste(swatch, (x, y))
        x += wide + 8
        draw.text((x, y + 3), text, font=font(14), fill=INK)
        x += int(font(14).getlength(text)) + 24
    draw.line((x, y + high // 2, x + wide, y + high // 2), tuple(map(int, colour[0])), 3)
    x += wide + 8
    text = "outline of the whole object"
    draw.text((x, y + 3), text, font=font(14), fill=INK)
    x += int(font(14).getlength(text)) + 24
    style = font(14)
    left = _MARGIN + room - x
    if style.getlength(remark) <= left:
        draw.text((x, y + 3), remark, font=style, fill=FAINT)
