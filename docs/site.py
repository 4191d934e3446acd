"""What `make docs` adds to the pages of docs/: the API reference, and links that leave docs/."""

import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/amodal_pipeline"
WIRING = {"hooks", "pipeline_registry", "pipelines", "settings"}  # Kedro's, not for import
PROJECT = ("README.md", "CONTRIBUTING.md", "conf/README.md")  # pages too, in the folder project/


def rooms() -> dict[str, list[str]]:
    """Return the dotted names of the modules in each package of the library."""
    modules: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inner = path.relative_to(PACKAGE).with_suffix("").parts
        inner = inner[:-1] if inner[-1] == "__init__" else inner
        if inner and inner[0] not in WIRING and not any(p.startswith("_") for p in inner):
            name = ".".join((PACKAGE.name, *inner))
            modules.setdefault(inner[0], []).append(name)
    return modules


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation's "Reference" with one page per room."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = [{room: f"reference/{room}.md"} for room in rooms()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference and those of the project's root."""
    for room, modules in rooms().items():
        text = f"# {room}\n\n" + "\n".join(f"::: {name}\n" for name in modules)
        files.append(File.generated(config, f"reference/{room}.md", content=text))
    for name in PROJECT:
        text = re.sub(r'(\]\(|src=")docs/', r"\1../", (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, f"project/{name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files outside docs/ into links to copies of them in the site."""
    here = posixpath.dirname(page.file.src_uri)

    def inside(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(here, match[1]))
        if not target.startswith(("../", "project/")):
            return match[0]
        name = target.removeprefix("../").removeprefix("project/")
        copy = f"project/{name}"
        if files.get_file_from_path(copy) is None and (ROOT / name).is_file():
            files.append(File.generated(config, copy, abs_src_path=str(ROOT / name)))
        return f"]({posixpath.relpath(copy, here or '.')}"

    return re.sub(r"\]\(([^)#:\s]+)", inside, markdown)


class PlainDocstrings(griffe.Extension):
    """Write Sphinx roles and doctests as code, because Markdown knows neither."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(
                r"(?:^>>> .*\n?(?:^(?!>>>)\S.*\n?)*)+", r"```pycon\n\g<0>\n```\n", text, flags=re.M
            )
