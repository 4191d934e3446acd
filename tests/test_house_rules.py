"""Rules of CONTRIBUTING that no linter checks, read from the code itself."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src/amodal_pipeline"
FILES = [*SOURCE.glob("jobs/*.py"), *SOURCE.glob("pipelines/*.py")]
FILES += [SOURCE / "front.py", SOURCE / "predictor.py"]

SPELLED = {"true", "true_boxes", "image", "none", "truth"}  # by annotations.given alone
# Where such a text is compared that says something else: a column of published.csv, the digest of a
# training without a start, and options of methods.
OTHERS = {("metrics/published.py", "true"), ("jobs/ablate.py", "none")}
OTHERS |= {("hooks/freshness.py", "none"), ("methods/configs.py", "none")}
OTHERS |= {("methods/configs.py", "image"), ("methods/sln.py", "image")}
# PCNet-M's order may be that of the table, or none; nothing of its input may be kept.
OTHERS |= {("methods/pcnet_m/config.py", "true")}
OTHERS |= {("training/portable.py", "none"), ("training/standalone.py", "none")}
OTHERS |= {("methods/dual_completion.py", "none"), ("methods/pcnet_m/method.py", "none")}


def parameters(function):
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [each.arg for each in named if each and each.arg not in ("self", "cls")]


def too_many(code):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [each for each in ast.walk(ast.parse(code)) if isinstance(each, functions)]
    return [each.name for each in found if len(parameters(each)) > 8]


def compared(code):
    """Texts that a program compares with, matches, or looks up in a dictionary that it writes."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Compare():
                sides = [node.left, *node.comparators]
            case ast.MatchValue():
                sides = [node.value]
            case ast.Call(func=ast.Attribute(value=ast.Dict() as table, attr="get")):
                sides = table.keys
            case ast.Subscript(value=ast.Dict() as table):
                sides = table.keys
            case _:
                continue
        parts = [part for side in sides if side for part in ast.walk(side)]
        constants = [each.value for each in parts if isinstance(each, ast.Constant)]
        found |= {each for each in constants if isinstance(each, str)}
    return found


def test_no_function_of_jobs_and_pipelines_has_more_than_eight_parameters():
    found = {path.name: too_many(path.read_text()) for path in FILES}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_what_was_given_is_compared_as_an_enum():
    found = {
        (path.relative_to(SOURCE).as_posix(), text)
        for path in SOURCE.rglob("*.py")
        if any(f'"{text}"' in path.read_text() for text in SPELLED)
        for text in compared(path.read_text()) & SPELLED
    }
    assert found - OTHERS == set()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('if made.inputs == "true": pass', {"true"}),
        ('if made.inputs in ("image", kind): pass', {"image"}),
        ('match kind:\n    case "true" | "true_boxes": pass', {"true", "true_boxes"}),
        ('{"image": "", "true": "on"}.get(inputs)', {"image", "true"}),
        ('words = {"image": 1}', set()),
    ],
)
def test_the_rule_sees_what_it_is_for(code, expected):
    assert compared(code) == expected


def test_nine_parameters_are_seen():
    assert too_many("def f(a, b, /, c, d, *e, f, g, h, **i): pass") == ["f"]
    assert too_many("class C:\n    def f(self, a, b, c, d, e, f, g, h): pass") == []
