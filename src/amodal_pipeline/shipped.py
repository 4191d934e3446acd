"""Locations of project files that are not code: conf/ and docs/published.csv.

A wheel has them in the package; a clone has them at its top.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent

ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1]
CONF = ROOT / "conf"
