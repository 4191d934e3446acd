"""Links within the pages, the navigation of the site, and README's Python.

`make docs` checks anchors as well.
"""

import re
from pathlib import Path

import pytest
import yaml

from amodal_pipeline import methods
from tests.conftest import tiny_method
from tests.methods.test_methods import checkpoint_of

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
_LINK = re.compile(r"""\]\(([^)\s]+)\)|src="([^"]+)\"""")
_CODE = re.compile(r"^```.*?^```|^    .*?$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *PAGES], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_relative_link_leads_to_a_file(page):
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    targets = (match[1] or match[2] for match in _LINK.finditer(text))
    own = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    assert [target for target in own if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_navigation_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]

    def named(entry):
        if isinstance(entry, str):
            return [entry]
        entries = entry if isinstance(entry, list) else entry.values()
        return [page for inner in entries for page in named(inner)]

    own = sorted(name for name in named(nav) if not name.startswith("project/"))
    assert own == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_the_python_of_the_readme_gives_masks_of_the_image(shapes, tmp_path):
    checkpoint_of(methods.build(tiny_method("orcnn"), classes=2)).save(tmp_path)
    image = shapes.images.iloc[0]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    for written, own in {
        "data/06_models/scenes/orcnn": tmp_path,
        "data/02_intermediate/scenes/val/000000.png": (
            Path(shapes.metadata.image_root) / image["file_name"]
        ),
    }.items():
        assert written in code
        code = code.replace(written, Path(own).as_posix())
    names = {}
    exec(code, names)
    masks = names["masks"]
    assert masks.shape[1:] == (image["height"], image["width"])
    assert len(masks) == len(names["found"]["scores"])
