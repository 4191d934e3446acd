"""Text in pictures: one font that looks the same on every machine."""

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and covers Latin, Greek and Cyrillic."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    # The basic layout engine is always there; Raqm is on some machines and spaces differently.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def shortened(text: str, style: ImageFont.FreeTypeFont, width: float) -> str:
    """``text`` on one line of at most ``width`` pixels, cut in the middle where it is longer."""
    text = "".join(c if c.isprintable() else " " for c in str(text)[:500])
    if style.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        keep = (low + high + 1) // 2
        if style.getlength(_middle_cut(text, keep)) <= width:
            low = keep
        else:
            high = keep - 1
    return _middle_cut(text, low)


def _middle_cut(text: str, keep: int) -> str:
    head = (keep + 1) // 2
    return text[:head] + "…" + (text[-(keep - head) :] if keep > head else "")
