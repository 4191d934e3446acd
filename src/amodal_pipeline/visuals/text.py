"""Text in pictures and pages: one font that looks the same on every machine, and counts."""

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont


def grouped(count: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{int(count):,}".replace(",", "\N{NO-BREAK SPACE}")


def quantity(count: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless it is one."""
    return f"{grouped(count)} {noun}{'' if count == 1 else 's'}"


@lru_cache(maxsize=64)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and covers Latin, Greek and Cyrillic."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    # Raqm, which only some machines have, spaces letters differently from the basic layout engine.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def shortened(text: str, style: ImageFont.FreeTypeFont, width: float) -> str:
    """Return ``text`` as one line of at most ``width`` pixels, cut in the middle if longer."""
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
