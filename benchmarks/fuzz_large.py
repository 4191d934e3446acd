"""Annotation files of up to a megabyte that ask a reader for as much work and memory as they can.

Much of little, little of much, and both at once: what a file says in few bytes may stand for many
pixels, corners, pairs or findings. As in :mod:`fuzz_inputs`, everything follows from a seed.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from fuzz_inputs import png

MAX_BYTES = 1 << 20
SQUARE = (9459, 9459)  # the largest canvases that are allowed: height, width in pixels
WIDE = (2730, 32767)
COMMON = (480, 640)

Size = tuple[int, int]
Mask = Any  # as JSON has it

# Where each format has the amodal and the visible mask, and the rank.
_KEYS = {
    "kins_2019": ("segmentation", "inmodal_seg", None),
    "kins_2020": ("a_segm", "i_segm", "ico_id"),
    "d2sa": ("segmentation", "visible_mask", "occl_depth"),
    "cocoa_cls": ("segmentation", "visible_mask", "occl_depth"),
    "flat": ("segmentation", "visible_mask", "occl_depth"),
    "coco_modal": ("segmentation", None, None),
}


def large_file(reader: str, seed: int, index: int) -> tuple[str, dict[str, bytes]]:
    """What is large about an input, and its files by name."""
    chance = random.Random(f"{seed} large {reader} {index}")
    kind = _KINDS[index % len(_KINDS)]
    document = kind(reader, chance)
    canvas = document.get("canvas")
    data = json.dumps(document, separators=(",", ":")).encode()
    assert len(data) <= MAX_BYTES, (kind.__name__, len(data))
    if chance.random() < 0.1:
        at = chance.randrange(len(data))
        data = data[:at] + chance.choice((b"", b"\xff", b"[", b'"')) + data[at + 1 :]
    name = kind.__name__.strip("_").replace("_", " ")
    if reader != "merge":
        image = {"annotations.png": png(tuple(canvas))} if reader == "cocoa_single" else {}
        return name, {"annotations.json": data, **image}
    coco = json.dumps(kind("coco_modal", chance), separators=(",", ":")).encode()
    return name, {"cocoa.json": data, "instances.json": coco}


def small_file(reader: str) -> dict[str, bytes]:
    """A sound file, by name as :func:`large_file`, that takes the way of every kind of mask."""
    size = COMMON
    runs = {"size": list(size), "counts": [9600, 90_000, size[0] * size[1] - 99_600]}
    ends = {"size": list(size), "counts": "0P`0" + _number(size[0] * size[1] - 512)}

    def masks(i: int) -> tuple[Mask, Mask]:
        parts = [[0, 0, 600, 10, 600, 400, 0, 470 - i], [10, 10, 630, 20, 20, 470]]
        outside = [[0, 0, 600, 10, 600, 400, 0, 472]]
        return (parts if i else parts[:1]), (outside, runs, ends, parts)[i % 4]

    documents = {"annotations.json": _file(reader, size, masks, random.Random(0), most=8)}
    if reader == "merge":
        documents = {
            "cocoa.json": documents["annotations.json"],
            "instances.json": _file("coco_modal", size, masks, random.Random(0), most=8),
        }
    given = {name: json.dumps(document).encode() for name, document in documents.items()}
    if reader == "cocoa_single":
        given["annotations.png"] = png(size)
    return given


def _file(
    reader: str,
    size: Size,
    masks: Callable[[int], tuple[Mask, Mask]],
    chance: random.Random,
    most: int = 1 << 20,
    images: int = 1,
) -> dict:
    """As many records as there is room for, at most ``most``, dealt out to images in turn.

    Args:
        masks: amodal and visible mask of record i.
    """
    room = MAX_BYTES - 1000
    images = 1 if reader == "cocoa_single" else images
    listed = [
        {"id": i, "file_name": f"{i}.jpg", "height": size[0], "width": size[1]}
        for i in range(images)
    ]
    room -= len(json.dumps(listed))
    cocoa = reader in ("cocoa", "cocoa_single", "merge")
    room -= 400 * images if cocoa else 0
    groups: list[list[dict]] = [[] for _ in range(images)]
    i = 0
    while i < most:
        amodal, visible = masks(i)
        image = i % images
        if cocoa:
            order = len(groups[image]) + 1
            record = _region(amodal, visible, order)
        else:
            record = _record(reader, i, image, amodal, visible, chance)
        room -= len(json.dumps(record, separators=(",", ":"))) + 1
        if room < 0:
            break
        groups[image].append(record)
        i += 1
    if cocoa:
        return _cocoa(reader, listed, groups)
    return {
        "images": listed,
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [record for group in groups for record in group],
    }


def _record(
    reader: str, i: int, image: int, amodal: Mask, visible: Mask, chance: random.Random
) -> dict:
    amodal_key, visible_key, rank = _KEYS[reader]
    record = {"id": i, "image_id": image, "category_id": 1, amodal_key: amodal}
    if visible_key is not None:
        record[visible_key] = visible
    if rank is not None:
        record[rank] = 1 + i if chance.random() < 0.9 else 1
    if rank == "ico_id":
        record["oco_id"] = 1
    return record


def _region(amodal: Mask, visible: Mask, order: int) -> dict:
    flat = amodal[0] if isinstance(amodal, list) and len(amodal) == 1 else amodal
    return {"segmentation": flat, "visible_mask": visible, "order": order, "isStuff": 0}


def _cocoa(reader: str, images: list[dict], groups: list[list[dict]]) -> dict:
    annotations = [
        {
            "id": image["id"],
            "image_id": image["id"],
            "author": "a",
            "url": "",
            "size": len(group),
            "depth_constraint": ",".join(f"{k}-{k + 1}" for k in range(1, min(len(group), 50))),
            "regions": group,
        }
        for image, group in zip(images, groups, strict=True)
    ]
    if reader == "cocoa_single":
        return annotations[0] | {"canvas": [images[0]["height"], images[0]["width"]]}
    return {"images": images, "annotations": annotations}


def _triangle(size: Size, i: int) -> list[list[float]]:
    """Across the whole canvas, in as few characters as possible."""
    height, width = size
    return [[0, i % height, width, height // 2, 0, (i + 9) % height]]


def _small(size: Size, i: int) -> list[list[float]]:
    x, y = i % (size[1] - 4), i // 7 % (size[0] - 4)
    return [[x, y, x + 3, y, x, y + 3]]


def _zigzag(size: Size, points: int, chance: random.Random) -> list[float]:
    """From side to side (or top to bottom) as often as there are points."""
    height, width = size
    polygon: list[float] = []
    sideways = chance.random() < 0.7
    for i in range(points):
        along = i / points
        x, y = ((i % 2) * width, along * height) if sideways else (along * width, i % 2 * height)
        polygon += [round(x), round(y, chance.choice((0, 1)))]
    return polygon


def _many_small_records(reader: str, chance: random.Random) -> dict:
    images = chance.choice((1, 10, 100, 2000))
    size = chance.choice((COMMON, WIDE))

    def masks(i: int) -> tuple[Mask, Mask]:
        return _small(size, i // images), _small(size, i // images)

    return _file(reader, size, masks, chance, images=images)


def _crowds(reader: str, chance: random.Random) -> dict:
    """Objects of one image that all overlap."""
    size = chance.choice((COMMON, SQUARE, WIDE))
    most = chance.choice((300, 1000, 3000))
    return _file(reader, size, lambda i: (_triangle(size, i),) * 2, chance, most=most)


def _triangles_of_many_images(reader: str, chance: random.Random) -> dict:
    size, images = chance.choice((SQUARE, WIDE)), chance.choice((10, 300))
    return _file(reader, size, lambda i: (_triangle(size, i),) * 2, chance, images=images)


def _zigzags(reader: str, chance: random.Random) -> dict:
    """Polygons with many corners on the largest canvases, several of them or one."""
    size = chance.choice((SQUARE, WIDE, (1, 32767), (32767, 2730)))
    points = chance.choice((16, 100, 200, 1000, 20_000))
    polygon = _zigzag(size, points, chance)
    return _file(reader, size, lambda i: ([polygon],) * 2, chance)


def _many_parts(reader: str, chance: random.Random) -> dict:
    """Records of thousands of polygons."""
    size = chance.choice((COMMON, SQUARE, WIDE))
    count = chance.choice((200, 3000, 15_000))
    draw = _triangle if chance.random() < 0.4 else _small
    parts = [draw(size, 11 * i)[0] for i in range(count)]
    visible = [parts[0]]
    return _file(reader, size, lambda i: (parts, visible), chance)


def _many_runs(reader: str, chance: random.Random) -> dict:
    """Run lengths of single pixels: one mask, hundreds, or thousands."""
    size = chance.choice((SQUARE, WIDE))
    pixels = size[0] * size[1]
    length = chance.choice((200, 1000, 9000, 400_000))
    # The fourth run on is written as the difference to the one two before: none, for equal ones.
    text = "111" + "0" * (length - 3)
    rest = pixels - length
    # The last run takes what remains of the canvas.
    text += _number(rest - 1)
    mask = {"size": list(size), "counts": text}
    small = {"size": list(size), "counts": "01" + _number(pixels - 1)}
    return _file(reader, size, lambda i: (mask, chance.choice((mask, small))), chance)


def _number(value: int) -> str:
    """One value of COCO's run-length strings."""
    chars = []
    more = True
    while more:
        bits = value & 31
        value >>= 5
        more = value != (-1 if bits & 16 else 0)
        chars.append(chr((bits | 32 if more else bits) + 48))
    return "".join(chars)


def _listed_runs(reader: str, chance: random.Random) -> dict:
    size = chance.choice((SQUARE, COMMON))
    length = chance.choice((100, 5000, 200_000))
    runs = [1] * length + [size[0] * size[1] - length]
    mask = {"size": list(size), "counts": runs}
    return _file(reader, size, lambda i: (mask, mask), chance)


def _many_images(reader: str, chance: random.Random) -> dict:
    size = chance.choice((COMMON, WIDE))
    return _file(
        reader,
        size,
        lambda i: (_small(size, i),) * 2,
        chance,
        most=50,
        images=14_000 if reader in _KEYS else 2_000,
    )


def _long_texts(reader: str, chance: random.Random) -> dict:
    """Names, keys and values of hundreds of thousands of characters."""
    document = _file(reader, COMMON, lambda i: (_small(COMMON, i),) * 2, chance, most=5)
    text = chance.choice(("x", "é", "\\", "../", "1-2,", "\x00", "[")) * 40_000
    holders = [document]
    for value in document.values():
        if isinstance(value, list):
            holders += [entry for entry in value if isinstance(entry, dict)]
    holder = chance.choice(holders)
    key = chance.choice([*holder])
    if chance.random() < 0.3:
        holder[text] = holder.pop(key)
    else:
        holder[key] = text
    return document


def _deep(reader: str, chance: random.Random) -> dict:
    """Lists within lists, as deep as Python still writes them, many times over."""
    document = _file(reader, COMMON, lambda i: (_small(COMMON, i),) * 2, chance, most=5)
    nested: Any = 1
    for _ in range(chance.choice((5, 100, 400))):
        nested = [nested] if chance.random() < 0.7 else {"a": nested}
    room = MAX_BYTES // (3 * len(json.dumps(nested)))
    lists = [value for value in document.values() if isinstance(value, list) and value]
    where = chance.choice(lists)
    if isinstance(where[0], dict) and chance.random() < 0.7:
        where[0][chance.choice([*where[0]])] = [nested] * room
    else:
        where += [nested] * room
    return document


def _faulty_records(reader: str, chance: random.Random) -> dict:
    """Every record is at fault: as many findings as records."""
    wrong = chance.choice(([[1, 2]], {"size": [1], "counts": "1"}, [[1, 2, 3, 4, 5, 1e9]], 5, None))
    amodal = chance.random() < 0.5

    def masks(i: int) -> tuple[Mask, Mask]:
        good = _small(COMMON, i)
        return (wrong, good) if amodal else (good, wrong)

    document = _file(reader, COMMON, masks, chance)
    if chance.random() < 0.5:
        for record in document.get("annotations", []):
            record["id"] = 1
    return document


def _many_categories(reader: str, chance: random.Random) -> dict:
    document = _file(reader, COMMON, lambda i: (_small(COMMON, i),) * 2, chance, most=5)
    document["categories"] = [{"id": i, "name": str(i)} for i in range(30_000)]
    return document


def _long_constraints(reader: str, chance: random.Random) -> dict:
    """COCOA's order: everything in front of everything, in circles."""
    most = chance.choice((50, 400))
    document = _file(reader, COMMON, lambda i: (_triangle(COMMON, i),) * 2, chance, most=most)
    pairs = [(i, j) for i in range(1, most + 1) for j in range(1, most + 1)]
    text = ",".join(f"{i}-{j}" for i, j in pairs)[: MAX_BYTES - len(json.dumps(document)) - 100]
    annotations = [document] if reader == "cocoa_single" else document["annotations"]
    annotations[0]["depth_constraint"] = text
    return document


_KINDS = (
    _many_small_records,
    _crowds,
    _triangles_of_many_images,
    _zigzags,
    _many_parts,
    _many_runs,
    _listed_runs,
    _many_images,
    _long_texts,
    _deep,
    _faulty_records,
    _many_categories,
    _long_constraints,
)
