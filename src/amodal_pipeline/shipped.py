"""Locations of project files that are not code: conf/, docs/published.csv and trained weights.

A wheel has the first two in the package; a clone has them at its top. Trained weights lie in the
package, ``weights/<name>/``: a checkpoint each, with a model card.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent

ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1]
CONF = ROOT / "conf"
WEIGHTS = _PACKAGE / "weights"


def with_shipped(folder: Path) -> Path:
    """Return the folder of a checkpoint: this one, or else the shipped weights of its last name.

    A folder that holds a checkpoint is taken before weights of the same name.
    """
    own = WEIGHTS / folder.name
    there = (folder / "method.json").exists() or not (own / "method.json").exists()
    return folder if there else own


def shipped_weights() -> list[str]:
    """Return the names of the weights that the package ships."""
    return sorted(card.parent.name for card in WEIGHTS.glob("*/method.json"))
