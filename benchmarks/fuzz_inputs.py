"""Damaged annotation files: small valid ones of every format, and what can happen to them.

Everything follows from a seed: :func:`files` of the same reader, seed and index has the same bytes.
Damage is done to the document (wrong types, sizes, ids, masks, order, names, …) and to its bytes.
:func:`large_files` makes files of up to a megabyte that ask for as much work as they can.
"""

import copy
import json
import math
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Size = tuple[int, int]  # height, width in pixels
Json = Any

MAX_BYTES = 1 << 20
CANVASES = ((4, 5), (1, 7), (20, 30), (33, 17), (40, 60))
LARGEST = (9459, 9459)  # of the square canvases that are allowed
WIDEST = (2730, 32767)
NAMES = {1: "cyclist", 2: "pedestrian", 4: "car", 44: "bottle"}

_MASK_KEYS = (
    "segmentation",
    "a_segm",
    "i_segm",
    "inmodal_seg",
    "visible_mask",
    "invisible_mask",
    "visible_segmentation",
)
_ID_KEYS = ("id", "image_id", "category_id")
_ORDER_KEYS = ("oco_id", "ico_id", "occl_depth", "order", "depth_constraint")
_OTHER_KEYS = ("iscrowd", "isStuff", "occlude_rate", "regions", "name", "file_name", "size")
_RAW, _KEY = "\ue000", "\ue001"


class Raw:
    """Text that stands in a file where a JSON value should."""

    def __init__(self, text: str):
        self.text = text

    def __deepcopy__(self, memo: dict) -> "Raw":
        return self


# ---------------------------------------------------------------------------- valid documents


def compressed(runs: list[int]) -> str:
    """COCO's string of run lengths; they may be as wrong as one likes."""
    chars = []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            chars.append(chr((bits | 32 if more else bits) + 48))
    return "".join(chars)


def rectangle_runs(size: Size, box: tuple[int, int, int, int]) -> list[int]:
    """Run lengths of a rectangle from (x0, y0) to before (x1, y1)."""
    height, width = size
    x0, y0, x1, y1 = box
    if y1 - y0 == height:
        runs = [x0 * height, (x1 - x0) * height, (width - x1) * height]
    else:
        runs = [x0 * height + y0, y1 - y0]
        runs += [height - y1 + y0, y1 - y0] * (x1 - x0 - 1)
        runs.append(height * width - sum(runs))
    return runs if runs[-1] else runs[:-1]


def rectangle_polygon(box: tuple[int, int, int, int]) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def as_run_lengths(size: Size, runs: list[int], as_list: bool = False) -> dict:
    return {"size": list(size), "counts": runs if as_list else compressed(runs)}


def document(reader: str, chance: random.Random) -> Json:
    """A small valid file of the format that a reader reads."""
    if reader in ("cocoa", "cocoa_single"):
        return _cocoa(chance, single=reader == "cocoa_single")
    images = _images(chance)
    record = {
        "kins_2019": _kins_2019,
        "kins_2020": _kins_2020,
        "d2sa": _d2sa,
        "cocoa_cls": _d2sa,
        "coco_modal": _modal,
    }.get(reader) or chance.choice((_kins_2019, _kins_2020, _d2sa))
    annotations = []
    for number in range(chance.randint(1, 6)):
        image = chance.choice(images)
        size = (image["height"], image["width"])
        amodal, visible = _boxes(chance, size)
        annotations.append(
            {
                "id": 10 * number + 3,
                "image_id": image["id"],
                "category_id": chance.choice(list(NAMES)),
                "iscrowd": 0,
                "area": 5,
                "bbox": [0, 0, 1, 1],
                **record(chance, size, amodal, visible),
            }
        )
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in NAMES.items()]
    parts = [("images", images), ("annotations", annotations), ("categories", categories)]
    chance.shuffle(parts)
    return {"info": {}, **dict(parts)}


def _images(chance: random.Random) -> list[dict]:
    images = []
    for number in range(chance.randint(1, 3)):
        height, width = chance.choice(CANVASES)
        name = f"{number}.jpg" if chance.random() < 0.8 else f"a/b/{number}.jpg"
        images.append({"id": 7 * number, "file_name": name, "height": height, "width": width})
    return images


def _boxes(chance: random.Random, size: Size) -> tuple[tuple, tuple]:
    """An amodal box on the canvas and a visible one within it."""
    height, width = size
    x0, y0 = chance.randrange(width), chance.randrange(height)
    x1, y1 = chance.randint(x0 + 1, width), chance.randint(y0 + 1, height)
    if chance.random() < 0.3:
        return (x0, y0, x1, y1), (x0, y0, x1, y1)
    return (x0, y0, x1, y1), (x0, y0, chance.randint(x0 + 1, x1), chance.randint(y0 + 1, y1))


def _kins_2019(chance: random.Random, size: Size, amodal: tuple, visible: tuple) -> dict:
    return {
        "segmentation": [rectangle_polygon(amodal)],
        "inmodal_seg": as_run_lengths(size, rectangle_runs(size, visible)),
        "inmodal_bbox": [0, 0, 1, 1],
    }


def _kins_2020(chance: random.Random, size: Size, amodal: tuple, visible: tuple) -> dict:
    return {
        "a_segm": [rectangle_polygon(amodal)],
        "i_segm": [rectangle_polygon(visible)],
        "oco_id": chance.randint(1, 2),
        "ico_id": chance.randint(0, 4),
    }


def _d2sa(chance: random.Random, size: Size, amodal: tuple, visible: tuple) -> dict:
    record = {
        "segmentation": as_run_lengths(size, rectangle_runs(size, amodal), chance.random() < 0.2),
        "occlude_rate": 0.0 if amodal == visible else 0.3,
        "occl_depth": chance.randint(0, 4),
    }
    if amodal != visible or chance.random() < 0.5:
        record["visible_mask"] = as_run_lengths(size, rectangle_runs(size, visible))
    return record


def _modal(chance: random.Random, size: Size, amodal: tuple, visible: tuple) -> dict:
    if chance.random() < 0.3:
        return {"segmentation": as_run_lengths(size, rectangle_runs(size, amodal), True)}
    return {"segmentation": [rectangle_polygon(amodal)]}


def _cocoa(chance: random.Random, single: bool) -> Json:
    """COCOA: annotations with regions, or one such annotation by itself."""
    images = _images(chance)
    annotations = []
    for number, image in enumerate(images):
        for author in range(1 if single else chance.randint(1, 2)):
            size = (image["height"], image["width"])
            count = chance.randint(1, 4)
            regions = []
            for order in range(1, count + 1):
                amodal, visible = _boxes(chance, size)
                region = {
                    "segmentation": rectangle_polygon(amodal),
                    "name": chance.choice(("car", "a tree", "")),
                    "area": 3,
                    "isStuff": int(chance.random() < 0.2),
                    "occlude_rate": 0.0 if amodal == visible else 0.4,
                    "order": order,
                }
                if amodal != visible:
                    runs = rectangle_runs(size, visible)
                    region["visible_mask"] = as_run_lengths(size, runs)
                regions.append(region)
            pairs = [(i, j) for i in range(1, count + 1) for j in range(i + 1, count + 1)]
            stated = [f"{i}-{j}" for i, j in pairs if chance.random() < 0.7]
            annotations.append(
                {
                    "id": 10 * number + author,
                    "image_id": image["id"],
                    "author": f"a{author}",
                    "url": f"http://localhost/{image['file_name']}",
                    "size": count,
                    "depth_constraint": ",".join(stated),
                    "regions": regions,
                }
            )
    if single:
        alone = annotations[0] | {"canvas": [images[0]["height"], images[0]["width"]]}
        if chance.random() < 0.5:
            del alone["depth_constraint"]
        return alone
    return {"info": {}, "images": images, "annotations": annotations}


# ---------------------------------------------------------------------------- damage


def hostile(chance: random.Random) -> Json:
    """A value that stands where nobody expects it, and now and then one that is no JSON."""
    return copy.deepcopy(chance.choice(_NO_JSON if chance.random() < 0.04 else _HOSTILE))


_DEEP = (100, 1000, 20_000)
_HOSTILE: tuple[Json, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 3.0, 0.5, -0.0, 1e-320, 1e308, -1e308),
    *(math.nan, math.inf, -math.inf, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30, float(2**63), 1e19, 10**400),
    *("", "0", "1", " ", "NaN", "\x00", "é", "𝟙", "a\nb", "x" * 10_000),
    *([], {}, [[]], [[[]]], [None], [0], [{}], {"": {}}, {"id": 1}, [1, 2, 3], ["a"], [[0] * 6]),
    *(Raw("1e400"), Raw("-1e400"), Raw("1E-400"), Raw("-0"), Raw("[" * 900 + "]" * 900)),
)
_NO_JSON: tuple[Json, ...] = (
    *("\ud800", "\udfff\ud800", Raw('"\\ud800"'), Raw('"\\x"'), Raw('"\\u00"'), Raw('"\t"')),
    *(Raw("01"), Raw("1."), Raw("+1"), Raw("0x10"), Raw(""), Raw("'a'"), Raw("undefined")),
    *(Raw("nan"), Raw("1,"), Raw("}"), Raw("]"), Raw('"\x00"'), Raw("9" * 5000), Raw("[" * 5000)),
    *(Raw("[" * n + "]" * n) for n in _DEEP),
    *(Raw('{"a":' * n + "1" + "}" * n) for n in _DEEP),
)
FILE_NAMES = (
    *("../a.jpg", "/etc/passwd", "a/../../b.jpg", "..", ".", "", "..\\..\\a.jpg", "C:\\a.jpg"),
    *("C:a.jpg", "\\\\host\\share\\a.jpg", "a/..", "./a.jpg", "a//b.jpg", "~/a.jpg", "/", "//a"),
    *("a\x00b.jpg", "a\nb.jpg", "\ud800.jpg", "\udc80.jpg", "\u202eexe.jpg", "CON", "a.jpg "),
    *("/" * 5000, "../" * 500, "a/" * 3000, "x" * 100_000, "file:///etc/passwd", "a/./b"),
    *("http://localhost/a.jpg", "%2e%2e/a.jpg", "％2e％2e/a", "..a.jpg", "a..", "…/a.jpg"),
)
CONSTRAINTS = (
    *("", "1-2", "1-2,2-1", "1-2,2-3,3-1", "1-1", "0-1", "99-100", "1-2,1-2", "a-b", "1--2"),
    *("-1-2", "1-2-3", ",", ",,1-2", "1-2,", " 1-2 , 2-3", "1 - 2", "１-２", "1e1-2", "1_0-2"),
    *("1.0-2", "1-" + "9" * 30, "9" * 5000 + "-1", "1–2", "1-2;2-3", "None", "[]", "\x00", "+1-2"),
    *("-", "1-", "-2", "1-2\n2-3", "\ud800-1", ",".join(["1-2"] * 5000)),
    *(",".join(f"{i}-1" for i in range(2000)), " " * 3000, "1" + " " * 3000 + "x"),
    *(None, 5, 1.2, True, [], ["1-2"], [[1, 2]], {"1": 2}, math.nan),
)
SIDES = (
    *(0, -1, 1, 2, 3, 40, 32767, 32768, 10**5, 10**9, 2**31, 2**62, -(10**9)),
    *(5.0, 5.5, "5", None),
)


def mutate(given: Json, chance: random.Random) -> bytes:
    """The bytes of a damaged copy of a document.

    Args:
        given: what json.load gives; left as it is.
        chance: where everything comes from.
    """
    root = [copy.deepcopy(given)]
    for _ in range(chance.choices((0, 1, 2, 3, 6), (1, 12, 6, 3, 1))[0]):
        damage = chance.choices(_DAMAGES, _WEIGHTS)[0]
        damage(root, chance)
    data = serialised(root[0], chance)
    if chance.random() < 0.12:
        for _ in range(chance.choices((1, 2, 5), (6, 2, 1))[0]):
            data = chance.choice(_BYTE_DAMAGES)(data, chance)
    return data[:MAX_BYTES]


def serialised(value: Json, chance: random.Random) -> bytes:
    """JSON text, in one of the ways it may be written."""
    raws: list[str] = []

    def default(raw: Raw) -> str:
        raws.append(raw.text)
        return f"{_RAW}{len(raws) - 1}{_RAW}"

    ascii_only = chance.random() < 0.7
    indent = chance.choice((None, None, None, 1))
    text = json.dumps(value, default=default, ensure_ascii=ascii_only, indent=indent)
    if raws or _KEY in text or "\\ue001" in text:
        # json writes private characters as themselves or escaped.
        raw, key = ("\\\\ue000", "\\\\ue001") if ascii_only else (_RAW, _KEY)
        text = re.sub(f'"{raw}(\\d+){raw}"', lambda found: raws[int(found[1])], text)
        text = re.sub(f"{key}\\d+{key}", "", text)
    return text.encode("utf-8", "surrogatepass")


def _descend(root: list, chance: random.Random) -> tuple[Json, Json]:
    """A place in the tree: its list or dictionary, and the index or key there."""
    holder, key = root, 0
    while isinstance(child := holder[key], (list, dict)) and child and chance.random() < 0.8:
        holder = child
        if isinstance(child, list):
            key = chance.randrange(len(child))
        elif "annotations" in child and chance.random() < 0.5:
            key = "annotations"
        else:
            key = chance.choice([*child])
    return holder, key


def _dictionaries(value: Json) -> Iterator[dict]:
    """All dictionaries of a tree, from its root down."""
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            yield here
            waiting += here.values()
        elif isinstance(here, list) and here and isinstance(here[0], (dict, list)):
            waiting += here


def _holder(root: list, keys: tuple[str, ...], chance: random.Random) -> tuple[dict, str] | None:
    """A dictionary that has one of the keys, and the key."""
    found = [(d, key) for d in _dictionaries(root[0]) for key in keys if key in d]
    return chance.choice(found) if found else None


def _replace(root: list, chance: random.Random) -> None:
    holder, key = _descend(root, chance)
    holder[key] = hostile(chance)


def _replace_known(root: list, chance: random.Random) -> None:
    if place := _holder(root, (*_ID_KEYS, *_MASK_KEYS, *_ORDER_KEYS, *_OTHER_KEYS), chance):
        place[0][place[1]] = hostile(chance)


def _delete(root: list, chance: random.Random) -> None:
    holder, key = _descend(root, chance)
    if holder is not root:
        del holder[key]


def _repeat(root: list, chance: random.Random) -> None:
    """An element twice, in a list: a record, an image, a point."""
    holder, key = _descend(root, chance)
    if isinstance(holder, list) and holder is not root:
        holder.insert(chance.randint(0, len(holder)), copy.deepcopy(holder[key]))


def _swap(root: list, chance: random.Random) -> None:
    (one, i), (other, j) = _descend(root, chance), _descend(root, chance)
    one[i], other[j] = copy.deepcopy(other[j]), copy.deepcopy(one[i])


def _swap_lists(root: list, chance: random.Random) -> None:
    lists = [(d, k) for d in _dictionaries(root[0]) for k, v in d.items() if isinstance(v, list)]
    if len(lists) > 1:
        (one, i), (other, j) = chance.sample(lists, 2)
        one[i], other[j] = copy.deepcopy(other[j]), copy.deepcopy(one[i])


def _rename(root: list, chance: random.Random) -> None:
    if place := _holder(root, (*_ID_KEYS, *_MASK_KEYS, *_ORDER_KEYS, *_OTHER_KEYS), chance):
        holder, key = place
        new = chance.choice((*_MASK_KEYS, *_ID_KEYS, *_ORDER_KEYS, key.upper(), "", "é", "\ud800"))
        holder[new] = holder.pop(key)


def _key_twice(root: list, chance: random.Random) -> None:
    holders = [d for d in _dictionaries(root[0]) if d]
    if holders:
        holder = chance.choice(holders)
        key = chance.choice([*holder])
        value = hostile(chance) if chance.random() < 0.5 else copy.deepcopy(holder[key])
        holder[f"{_KEY}{len(holder)}{_KEY}{key}"] = value


def _ids(root: list, chance: random.Random) -> None:
    """An id that another has, that nothing has, or that is none."""
    if place := _holder(root, _ID_KEYS, chance):
        holder, key = place
        others = [d[key] for d in _dictionaries(root[0]) if key in d]
        wrong = (10**6, -1, -(2**63), 2**63 - 1, 2**63, 3.0, 3.5, "3", True, None, math.nan)
        holder[key] = chance.choice(others if chance.random() < 0.5 else wrong)


def _order(root: list, chance: random.Random) -> None:
    """Ranks of every kind; constraints of every kind, with cycles among them."""
    for holder in _dictionaries(root[0]):
        for key in _ORDER_KEYS:
            if key in holder and chance.random() < 0.7:
                ranks = (0, 1, 1, 2, 3, -1, 2**40, 2**63 - 1, 1.0, 1.5, "1", None, True, [1])
                wrong = CONSTRAINTS if key == "depth_constraint" else ranks
                holder[key] = copy.deepcopy(chance.choice(wrong))


def _cycle(root: list, chance: random.Random) -> None:
    for holder in _dictionaries(root[0]):
        if isinstance(holder.get("regions"), list):
            n = len(holder["regions"]) + chance.randint(-1, 2)
            pairs = [f"{chance.randint(0, n)}-{chance.randint(0, n)}" for _ in range(3 * n)]
            holder["depth_constraint"] = ",".join(pairs)


def _sides(root: list, chance: random.Random) -> None:
    if place := _holder(root, ("height", "width"), chance):
        place[0][place[1]] = chance.choice(SIDES)


def _enormous(root: list, chance: random.Random) -> None:
    """An image that claims to be enormous, and masks that agree with it."""
    if not (place := _holder(root, ("height",), chance)):
        return
    image = place[0]
    size = chance.choice((LARGEST, WIDEST, (32767, 2730), (1, 32767), (32767, 32767)))
    image["height"], image["width"] = size
    for record in [*_dictionaries(root[0])]:
        if record.get("image_id") == image.get("id"):
            for holder in _dictionaries(record):
                for key in _MASK_KEYS:
                    if key in holder and chance.random() < 0.8:
                        holder[key] = _any_mask(holder[key], size, chance)


def _any_mask(now: Json, size: Size, chance: random.Random) -> Json:
    box = _boxes(chance, size)[0]
    if isinstance(now, dict):
        pixels = size[0] * size[1]
        first = chance.randrange(pixels)
        second = chance.randint(1, pixels - first)
        runs = [first, second, pixels - first - second]
        return as_run_lengths(size, runs if runs[-1] else runs[:-1], chance.random() < 0.5)
    polygon = rectangle_polygon(box)
    return polygon if isinstance(now, list) and now and not isinstance(now[0], list) else [polygon]


def _file_name(root: list, chance: random.Random) -> None:
    if place := _holder(root, ("file_name", "url"), chance):
        place[0][place[1]] = chance.choice(FILE_NAMES)


def _mask(root: list, chance: random.Random) -> None:
    """A mask that is none, or of another canvas, or a strange one."""
    if place := _holder(root, _MASK_KEYS, chance):
        holder, key = place
        sizes = [(d.get("height"), d.get("width")) for d in _dictionaries(root[0]) if "height" in d]
        size = chance.choice([s for s in sizes if _is_size(s)] or [(20, 30)])
        if isinstance(holder[key], dict) != (chance.random() < 0.1):
            holder[key] = _damaged_run_lengths(holder[key], size, chance)
        else:
            holder[key] = _damaged_polygons(holder[key], size, chance)


def _is_size(size: tuple) -> bool:
    return all(type(side) is int and 0 < side < 2**15 for side in size)


def _damaged_polygons(now: Json, size: Size, chance: random.Random) -> Json:
    height, width = size
    flat = isinstance(now, list) and now and not isinstance(now[0], list)
    polygons = copy.deepcopy([now] if flat else now)
    if not isinstance(polygons, list) or not polygons or not isinstance(polygons[0], list):
        polygons = [rectangle_polygon(_boxes(chance, size)[0])]
    polygon = polygons[0]
    kind = chance.randrange(16)
    if kind == 0:
        few = [[], [1], [1, 1], [1, 1, 3, 3], [1, 1, 3, 3, 3], polygon[:5]]
        polygons[:] = [*polygons[: chance.randint(0, 1)], *chance.sample(few, chance.randint(1, 3))]
    elif kind == 1:
        factor = chance.choice((-1, 0, 0.1, 3, 10, 1e3, 1e6, 1e300, 2**40))
        polygon[:] = [v * factor if isinstance(v, (int, float)) else v for v in polygon]
    elif kind == 2:
        by = chance.choice((-width, width, -4 * width, 0.5, 0.2, -0.5, 1e9, 2**53))
        polygon[:] = [v + by if isinstance(v, (int, float)) else v for v in polygon]
    elif kind == 3:
        n = chance.choices((10, 200, 2000, 100_000), (40, 20, 4, 1))[0]
        far = chance.choice((1, 1, 3.9, 4.1))
        polygon[:] = [v for i in range(n) for v in ((i % 2) * width * far, i * height / n)]
    elif kind == 4:
        polygon[:] = [chance.uniform(-width, 2 * width) for _ in range(2 * chance.randint(3, 60))]
    elif kind == 5:
        polygon[:] = polygon[:2] * chance.randint(1, 9)
    elif kind == 6:
        polygon[:] = [v for i in range(chance.randint(2, 9)) for v in (i, i)]
    elif kind == 7:
        wrong = ["1", None, True, [], {}, math.nan, math.inf, 10**400, 2**63, "a", Raw("1e400")]
        if not polygon:
            polygon.append(0)
        polygon[chance.randrange(len(polygon))] = chance.choice(wrong)
    elif kind == 8:
        polygon.append(1)
    elif kind == 9:
        polygons = [polygons] if chance.random() < 0.5 else [[polygons]]
    elif kind == 10:
        small = [1, 1, 3, 1, 3, 3]
        polygons += [copy.copy(small) for _ in range(chance.choice((2, 20, 300)))]
    elif kind == 11:
        polygons.insert(chance.randint(0, 1), hostile(chance))
    elif kind == 12:
        polygon[:] = rectangle_polygon((0, 0, width, height))
    elif kind == 13:
        polygon[:] = rectangle_polygon((-3, -2, width + 5, height + 1))
    elif kind == 14:
        polygon[:] = [2.5, 1.5] * chance.randint(3, 5) + [0.49, 0.51, 7.2, 0.3]
    else:
        polygon[:] = [round(v / 5, 1) for v in chance.choices(range(-5, 300), k=14)]
    return polygons[0] if flat and len(polygons) == 1 else polygons


def _damaged_run_lengths(now: Json, size: Size, chance: random.Random) -> Json:
    height, width = size
    pixels = height * width
    value = copy.deepcopy(now) if isinstance(now, dict) else as_run_lengths(size, [1, pixels - 1])
    text = value.get("counts")
    text = (
        text if isinstance(text, str) and text else compressed([pixels // 2, pixels - pixels // 2])
    )
    kind = chance.randrange(12)
    if kind == 0:
        wrong = (
            *([width, height], [height + 1, width], [0, 0], [-1, -1], [float(height), width]),
            *([str(height), width], [height], [height, width, 1], [10**9, 10**9], [], None, "a"),
            *(height, {"0": height}, [True, True], [height, None], [2**63, 2**63], [math.nan, 1]),
        )
        value["size"] = chance.choice(wrong)
    elif kind == 1:
        at = chance.randrange(len(text))
        value["counts"] = text[:at] + chr(chance.randint(32, 130)) + text[at + 1 :]
    elif kind == 2:
        value["counts"] = text[: chance.randrange(len(text))]
    elif kind == 3:
        value["counts"] = text + chance.choice(
            ("0", "1", "o", "O", "00", text, "P" * 40, "\x00", "é")
        )
    elif kind == 4:
        groups = chance.choice(("o" * 6, "o" * 7, "o" * 8, "P" * 12, "o" * 200, "_" * 13))
        value["counts"] = chance.choice((groups, groups + "0", text + groups + "1", "1" + groups))
    elif kind == 5:
        inside = chance.choice(([0], [0, 0], [0, 0, 0, 0]))
        value["counts"] = compressed([pixels // 2, *inside, pixels - pixels // 2])
    elif kind == 6:
        by = chance.choice((1, 2, pixels, 2**31, 2**33))
        value["counts"] = compressed([pixels + by, -by])
    elif kind == 7:
        runs = chance.choices(range(-2, 9), k=chance.randint(1, 30))
        value["counts"] = runs if chance.random() < 0.5 else compressed(runs)
    elif kind == 8:
        value["counts"] = [1] * pixels if pixels <= 2400 and chance.random() < 0.7 else [pixels]
    elif kind == 9:
        wrong = ("1", None, True, [], {}, math.nan, math.inf, 1.5, -1, 2**63, 10**400, 2.0)
        value["counts"] = [1, chance.choice(wrong), max(pixels - 2, 0)]
    elif kind == 10:
        value["counts"] = hostile(chance)
    else:
        runs = chance.choice(([0, pixels], [pixels], [0, 1, pixels - 1], [pixels - 1, 1], [0]))
        value = as_run_lengths(size, runs, chance.random() < 0.3)
    return value


def _many(root: list, chance: random.Random) -> None:
    """Many copies of a record, with ids of their own or the same."""
    lists = [
        d[k]
        for d in _dictionaries(root[0])
        for k in ("annotations", "images", "regions", "categories")
        if isinstance(d.get(k), list) and d[k]
    ]
    if not lists:
        return
    of = chance.choice(lists)
    record = chance.choice(of)
    for i in range(chance.choices((5, 40, 300, 1100), (40, 20, 3, 1))[0]):
        another = copy.deepcopy(record)
        if isinstance(another, dict) and "id" in another and chance.random() < 0.99:
            another["id"] = 1000 + i
        of.append(another)


_WEIGHTED: tuple[tuple[Callable[[list, random.Random], None], int], ...] = (
    (_replace, 5),
    (_replace_known, 5),
    (_delete, 4),
    (_repeat, 3),
    (_swap, 2),
    (_swap_lists, 1),
    (_rename, 3),
    (_key_twice, 2),
    (_ids, 5),
    (_order, 5),
    (_cycle, 1),
    (_sides, 3),
    (_enormous, 2),
    (_file_name, 3),
    (_mask, 14),
    (_many, 1),
)
_DAMAGES, _WEIGHTS = zip(*_WEIGHTED, strict=True)


_STRAY = (
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n"),
    *(b"-", b".", b"e", b"9" * 30, b"[" * 3000, b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"),
)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.choice(_STRAY) + data[at:]


def _remove(data: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + data[at + chance.choice((1, 1, 2, 9, 100)) :]


def _move(data: bytes, chance: random.Random) -> bytes:
    a, b, c = sorted(chance.randint(0, len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _stutter(data: bytes, chance: random.Random) -> bytes:
    a, b = sorted(chance.randint(0, len(data)) for _ in range(2))
    return data[:b] + data[a:b] * chance.choice((1, 1, 2, 5)) + data[b:]


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.randbytes(chance.choice((1, 2, 8, 50))) + data[at + 8 :]


def _recode(data: bytes, chance: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    code = chance.choice(("utf-16", "utf-32-le", "utf-8-sig", "utf-7"))
    return text.encode(code, "replace")


_BYTE_DAMAGES = (
    *(_cut, _cut, _flip, _flip, _flip, _insert, _insert, _insert),
    *(_remove, _remove, _move, _stutter, _overwrite, _recode),
)


def files(reader: str, seed: int, index: int) -> dict[str, bytes]:
    """The files of a fuzzed input by name; the first is the one that the reader is given first."""
    chance = random.Random(f"{seed} {reader} {index}")
    if reader == "merge":
        return _pair(chance)
    given = document(reader, chance)
    made = {"annotations.json": mutate(given, chance)}
    if reader == "cocoa_single" and chance.random() < 0.95:
        size = tuple(given["canvas"])
        image = png(size if chance.random() < 0.9 else chance.choice(((1, 1), (2**31 - 1,) * 2)))
        made["annotations.png"] = image if chance.random() < 0.95 else _flip(image, chance)
    return made


def png(size: Size) -> bytes:
    """An image that says it has a size, and no pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, 0, 0, 0, 0)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def _pair(chance: random.Random) -> dict[str, bytes]:
    """COCOA and COCO instances of the same images, one of the two damaged or both."""
    cocoa = document("cocoa", chance)
    images = copy.deepcopy(cocoa["images"])
    instances = []
    for annotation in cocoa["annotations"]:
        image = next(i for i in images if i["id"] == annotation["image_id"])
        size = (image["height"], image["width"])
        for region in annotation["regions"]:
            if chance.random() < 0.3:
                continue
            crowd = chance.random() < 0.1
            visible = region.get("visible_mask") or [region["segmentation"]]
            if crowd:
                visible = as_run_lengths(size, rectangle_runs(size, _boxes(chance, size)[0]), True)
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": image["id"],
                    "category_id": chance.choice(list(NAMES)),
                    "iscrowd": int(crowd),
                    "area": 5,
                    "bbox": [0, 0, 1, 1],
                    "segmentation": visible,
                }
            )
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in NAMES.items()]
    coco = {"images": images, "annotations": instances, "categories": categories}
    damaged = chance.choice(((0,), (1,), (0, 1)))
    return {
        name: mutate(value, chance) if i in damaged else json.dumps(value).encode()
        for i, (name, value) in enumerate({"cocoa.json": cocoa, "instances.json": coco}.items())
    }
