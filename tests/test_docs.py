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


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(code, replaced):
    """Run the Python of a page, with its names for other places and smaller numbers."""
    for written, own in replaced.items():
        assert written in code, written
        code = code.replace(written, str(own))
    names = {}
    exec(code, names)
    return names


def test_the_python_of_the_readme_gives_masks_of_the_image(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint_of(methods.build(tiny_method("orcnn"), classes=2)).save(tmp_path / "orcnn")
    image = shapes.images.iloc[0]
    picture = Path(shapes.metadata.image_root) / image["file_name"]
    replaced = {
        "data/06_models/scenes/orcnn": "orcnn",
        "data/02_intermediate/scenes/val/000000.png": picture.as_posix(),
        "above(0.5)": "above(0.0)",
    }
    names = run(blocks(ROOT / "README.md")[1], replaced)
    assert names["masks"].shape[1:] == (image["height"], image["width"])
    assert len(names["masks"]) == len(names["found"].scores) > 0
    assert (tmp_path / "objects.png").exists() and (tmp_path / "objects.json").exists()


def test_the_python_of_the_front_door_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(
        ["from tests.test_front import COMPLETER, TOKENIZER", *blocks(DOCS / "python.md")]
    )
    tiny = "iterations=2, model=COMPLETER, parts={'tokenizer': TOKENIZER}"
    few = "resamples=2, headline_resamples=2"
    names = run(
        code,
        {
            "train=400, val=80": "train=3, val=2",
            "iterations=500": "iterations=2",
            '"runs/c2f_seg")': f'"runs/c2f_seg", {tiny}, training={{"workers": 0}})',
            "ap.complete(c2f, found)": "ap.complete(c2f, found, workers=0)",
            "ap.true_objects(val))])": f"ap.true_objects(val), workers=0)], {few})",
            "ap.evaluate(val, [found])": f"ap.evaluate(val, [found], {few})",
            "street.jpg": "data/scenes/val/000000.png",
            "above(0.5)": "above(0.0)",
            'detector="torchvision"': 'detector="runs/orcnn"',
            'result.cutouts[0].save("object.png")': "result.cutouts",
        },
    )
    assert names["model"].detector.name == "orcnn"
    assert (names["results"]["metric"] == "AP_amodal").any()
    assert names["result"].masks.ndim == 3 and (tmp_path / "street.json").exists()
