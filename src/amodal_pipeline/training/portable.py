"""Completers as files that run without this project: as ONNX and of ``torch.export``."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.methods.checkpoints import Checkpoint
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.pretrained import restore

_log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # largest difference between exported and own probabilities
_FLIPPED = 4  # pixels of a crop that may fall to the other side of a threshold
# Targets that an exported completer is not given, and what networks use them for.
_NO_GRAPH = {
    "key": "draws at random for each object, seeded by its number",
    "labels": "is given the category of each object",
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        inputs: names of the inputs after "image" and "visible_mask".
        difference: the largest one of a file's probabilities from this project's, 0–1.
        size: bytes of ``model.onnx``.
    """

    inputs: tuple[str, ...]
    difference: float
    size: int


class _Graph(nn.Module):
    """A completer whose inputs have positions instead of names."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(
        self, image: Tensor, visible_mask: Tensor, *more: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        targets = {"input": visible_mask, **dict(zip(self.inputs, more, strict=True))}
        found = self.model(image, targets)["amodal_masks"].float()
        if not _orders(self.model):
            return found
        # What both outputs have in common ONNX Runtime computes once.
        return found, self.model.gains(image, targets)["gains"]


class _Watched(dict):
    """Targets that know which of them were read."""

    def __init__(self, targets: dict[str, Tensor]) -> None:
        super().__init__(targets)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def export_completer(checkpoint: Checkpoint, folder: Path) -> Exported:
    """Write a completer of images as ``model.onnx``, ``model.pt2`` and a script that runs it.

    Both models take any number N of objects: "image" uint8 [N, 3, I, I], "visible_mask" uint8
    [N, S, S], and what else the network looks at: "others" or "in_front" uint8 [N, S, S], "aspect"
    float32 [N, 2] (:mod:`.completing`). They return "amodal_mask", float32 [N, S, S] in 0–1; and
    "gains" [N] of one that finds who is in front (:mod:`~..methods.dual_completion`). ONNX's
    metadata has, as "completer", the crop and the origin as JSON. ``complete.py`` is
    :mod:`.standalone`, which needs no PyTorch.

    Args:
        checkpoint: of a completer.
        folder: replaced as a whole.

    Raises:
        ValueError: the network cannot be exported, or what a file computes differs by more than
            :data:`TOLERANCE`; or the packages of the extra ``export`` are not installed.
    """
    _check_installed()
    model, method = restore(checkpoint), checkpoint.card.method.root
    inputs = _inputs(model)
    order = {}
    if _orders(model):
        order = {"order": {"kind": model.config.order, "most_shared": model.config.most_shared}}
    graph = _Graph(model, inputs).eval()
    with torch.no_grad():
        program, exported = _exported(graph, _example(model, inputs, 2))
    exported.model.metadata_props["completer"] = json.dumps(
        {
            "method": job_name(method),
            "dataset": checkpoint.card.dataset,
            "fingerprint": checkpoint.card.fingerprint.digest,
            "crop": model.config.crop.model_dump(mode="json"),
            "inputs": ["image", "visible_mask", *inputs],
            "pixels": method.DESCRIPTION.needs_pixels(method),
            **order,
        }
    )
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        exported.save(temporary / "model.onnx")
        with warnings.catch_warnings():
            # Of weights that are views of others, which are saved whole on a CPU.
            warnings.filterwarnings("ignore", "No complete tensor found in the group")
            torch.export.save(program, temporary / "model.pt2")
        shutil.copyfile(Path(__file__).with_name("standalone.py"), temporary / "complete.py")
        difference = max(_difference(graph, temporary, count) for count in (1, 3))
        if difference > TOLERANCE:
            raise ValueError(
                f"{job_name(method)} as a file differs by {difference:.2g} from this project's, "
                f"more than {TOLERANCE:g}: use other versions of torch, onnxscript and onnxruntime"
            )
        size = (temporary / "model.onnx").stat().st_size
    return Exported(inputs, difference, size)


def _check_installed() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"exporting needs {error.name}, which is not installed: pip install "
            "'amodal-pipeline[export]'"
        ) from error


def _orders(model: nn.Module) -> bool:
    """Return whether a completer is shown who is in front of an object."""
    return model.config.DESCRIPTION.sees(model.config) == "in_front"


def _inputs(model: nn.Module) -> tuple[str, ...]:
    """Return the targets that a completer reads beside the visible mask."""
    config = model.config
    if _orders(model) and config.order not in ("own", "none"):
        raise ValueError(
            f"{config.name} is configured to use the order that a data set states, which pictures "
            "do not have: set order=own"
        )
    sees = config.DESCRIPTION.sees(config)
    image, mask, beside, aspect = _example(model, (sees, "aspect"), 2)
    targets = {"input": mask, "aspect": aspect}
    if sees != "itself":
        targets[sees] = beside
    numbers = dict.fromkeys(("key", "labels"), torch.ones(2, dtype=torch.int64))
    watched = _Watched(targets | numbers)
    with torch.inference_mode():
        model(image, watched)
    for name, does in _NO_GRAPH.items():
        if name in watched.read:
            raise ValueError(
                f"{config.name} {does}, which no exported graph does: run it with this project "
                "(docs/python.md), or export another completer"
            )
    return tuple(sorted(watched.read & targets.keys() - {"input"}))


def _example(model: nn.Module, inputs: tuple[str, ...], count: int) -> tuple[Tensor, ...]:
    """Return inputs of ``count`` objects, drawn at random."""
    crop, draw = model.config.crop, torch.Generator().manual_seed(count)
    pixels = torch.rand((count, 3, crop.image_side, crop.image_side), generator=draw)
    found = [(256 * pixels).to(torch.uint8)]
    for name in ("input", *inputs):
        if name == "aspect":
            extent = torch.rand((count, 2), generator=draw) + 0.1
            found.append(extent / extent.amax(dim=1, keepdim=True))
        else:
            # Blobs, not noise.
            coarse = torch.rand((count, 1, -(-crop.side // 8), -(-crop.side // 8)), generator=draw)
            mask = torch.nn.functional.interpolate(coarse, (crop.side, crop.side))[:, 0] > 0.5
            found.append(mask.to(torch.uint8))
    return tuple(found)


def _exported(
    graph: _Graph, example: tuple[Tensor, ...]
) -> tuple[torch.export.ExportedProgram, torch.onnx.ONNXProgram]:
    objects = torch.export.Dim("objects", min=1)
    first, second, *more = [{0: objects} for _ in example]
    shapes = (first, second, tuple(more)) if more else (first, second)
    try:
        program = torch.export.export(graph, example, dynamic_shapes=shapes)
        return program, torch.onnx.export(
            program,
            dynamo=True,
            input_names=["image", "visible_mask", *graph.inputs],
            output_names=["amodal_mask", "gains"][: 2 if _orders(graph.model) else 1],
            verbose=False,
        )
    except Exception as error:  # of a dozen types, which PyTorch does not document
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ValueError(
            f"{graph.model.config.name} cannot be exported, because its network computes something "
            f"that is no graph, or nothing of ONNX ({type(error).__name__}: {reason.strip()}): run "
            "it with this project (docs/python.md), or export another completer"
        ) from error


def _difference(graph: _Graph, folder: Path, count: int) -> float:
    """Return the largest difference between the files and the network for ``count`` objects.

    That of gains counts only above :data:`_FLIPPED` pixels: they count pixels above a threshold.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    example = _example(graph.model, graph.inputs, count)
    names = ("image", "visible_mask", *graph.inputs)
    given = {name: values.numpy() for name, values in zip(names, example, strict=True)}
    with torch.inference_mode():
        own = graph(*example)
        loaded = torch.export.load(folder / "model.pt2").module()(*example)
    worst, few = 0.0, _FLIPPED / graph.model.config.crop.side**2
    run = [torch.from_numpy(each) for each in session.run(None, given)]
    for found in (run, loaded if _orders(graph.model) else [loaded]):
        outputs = own if _orders(graph.model) else [own]
        for at, (expected, values) in enumerate(zip(outputs, found, strict=True)):
            off = float((values - expected).abs().max())
            worst = max(worst, 0.0 if at and off <= few else off)
    return worst
