"""Amodal segmentation methods under one roof: one table, one training loop, one evaluator.

In Python: :mod:`amodal_pipeline.front`, whose functions are names of this package.
"""

from typing import Any

__version__ = "0.1.0"

_FRONT = (
    *("Start", "complete", "evaluate", "load", "predict", "read", "train", "true_objects"),
    "whole_objects",
)


def __getattr__(name: str) -> Any:
    # Every `kedro` command imports this package: only Python's users wait for torch.
    if name in _FRONT:
        from amodal_pipeline import front

        return getattr(front, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FRONT])
