"""Plain English: docstrings that begin with a verb, and no phrase that readers stumble over."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/amodal_pipeline"
FILES = sorted(SOURCE.rglob("*.py"))
VERBS = re.compile(
    r"Add|Blend|Call|Check|Choose|Close|Combine|Complete|Compose|Compute|Copy|Count|"
    r"Draw|Encode|End|Estimate|Find|Join|Load|Lock|Log|Mark|Match|Measure|"
    r"Make|Merge|Move|Multiply|Paste|Plot|Predict|Print|Put|Raise|Read|Refuse|"
    r"Remove|Render|Replace|Return|Run|Save|Score|Set|Split|Stop|Test|Train|"
    r"Write|Yield"
)
RIDDLES = re.compile(
    "|".join(
        (
            r"what is there\b",
            r"\bof a kind\b",
            r"\bwhoever\b",
            r"\bis none\b",
            r"\bstands? beside\b",
            r"\brests? on\b",
            r"\bis told\b",
            r"\bwhat is made of\b",
            r'("""|# )As :(func|meth|class):',
            # "per image", not "an image".
            r"\b(one|images|objects|pairs|pixels|rows|lines|centres) an? "
            r"(batch|category|image|iteration|line|mask|method|row|side)\b",
        )
    ),
    re.IGNORECASE,
)


def functions(node):
    """Yield the public functions and methods of a module, with their docstrings."""
    for inner in getattr(node, "body", ()):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and not inner.name.startswith("_"):
            if isinstance(inner, ast.ClassDef):
                yield from functions(inner)
            elif docstring := ast.get_docstring(inner):
                yield inner, docstring


def test_docstrings_of_public_functions_begin_with_a_verb():
    others = [
        f"{path.relative_to(SOURCE)}:{function.lineno} {function.name}: {docstring.splitlines()[0]}"
        for path in FILES
        for function, docstring in functions(ast.parse(path.read_text(encoding="utf-8")))
        if not VERBS.fullmatch(docstring.split()[0])
    ]
    assert others == []


def test_no_page_or_module_has_a_riddle():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found = []
    for path in [*FILES, *pages]:
        text = path.read_text(encoding="utf-8")
        for match in RIDDLES.finditer(text):
            if match[0] != "is None":  # Python
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}")
    assert found == []
