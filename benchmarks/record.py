"""How every benchmark prints and records what it measured."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.training.loop import git_revision


def write(result: dict, out: Path | None) -> None:
    """Print the result with machine, versions and revision; record it in ``out``."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    context = {
        "device": gpu or f"CPU ({platform.machine()}, {os.cpu_count()} cores)",
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "numpy", "trimesh")},
        },
        "git_revision": git_revision(),
    }
    text = json.dumps({**result, **context}, indent=2)
    print(text)
    if out is not None:
        with replacing(out) as path:
            path.write_text(text + "\n")
