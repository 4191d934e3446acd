"""Time and memory of soft silhouettes, beside every face at every pixel.

Dented spheres of 1,280 faces before random cameras, forward and backward: 64 of them at 64x64, as
A3D is trained, and 16 at 256x256. The naive way is :func:`coverage_reference`, over as many pixels
at a time as fit in memory. It would take minutes: one mesh is timed, at 256x256 in every 16th
pixel (of a random order), three times, and seconds per mesh and pixel are compared. On a CPU that
mesh is timed without compiled loops too. There, a peak is that of the program so far: the fast way
is measured in all cases before the naive one.

    python benchmarks/soft_rasterizer.py [--out benchmarks/results/soft_rasterizer.json]
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from amodal_pipeline.layers.cameras import PRESETS, project, viewpoints_of
from amodal_pipeline.layers.meshes import icosphere
from amodal_pipeline.layers.soft_rasterizer import (
    PAIRS,
    coverage_reference,
    pixel_centres,
    rasterize,
    silhouettes,
)
from record import peak_gigabytes, seconds_of, write

SIGMA = 1e-4
NAIVE_PAIRS = 1 << 20  # of face and pixel at once: some 0.5 GB with all that backward needs
CASES = ((64, 64), (16, 256))  # meshes, side
NAIVE_PIXELS = 64 * 64
NAIVE_REPEATS = 3
WANTED_RATIO, WANTED_DIFFERENCE = 5.0, 1e-5


def scene(meshes: int, device: str) -> tuple[Tensor, Tensor]:
    """Vertices as cameras see them [N, V, 3], and faces."""
    generator = torch.Generator().manual_seed(0)
    sphere, preset = icosphere(3), PRESETS["smr"]
    dents = 1 + 0.05 * torch.randn(meshes, len(sphere.vertices), 1, generator=generator)
    viewpoints = viewpoints_of(torch.randn(meshes, 4, generator=generator), preset)
    screen = project(sphere.vertices * dents, viewpoints, preset.field_of_view)
    return screen.to(device), sphere.faces.to(device)


def naive(screen: Tensor, faces: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What one mesh shows at points [P, 2], and the gradient of its sum with ``weights`` [P]."""
    leaf = screen.clone().requires_grad_()
    at_once = NAIVE_PAIRS // len(faces)
    found = []
    for some, weight in zip(points.split(at_once), weights.split(at_once), strict=True):
        piece = coverage_reference(leaf, faces, some, SIGMA)[0]
        (piece * weight).sum().backward()
        found.append(piece.detach())
    return torch.cat(found), leaf.grad


def measure(
    render: Callable, screen: Tensor, faces: Tensor, weights: Tensor, repeats: int
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Seconds forward and with backward, the silhouettes, and the gradient."""
    device, side = screen.device.type, weights.shape[1]
    leaf = screen.clone().requires_grad_()

    def both() -> Tensor:
        leaf.grad = None
        found = render(leaf, faces, side, SIGMA)
        (found * weights).sum().backward()
        return found.detach()

    with torch.no_grad():
        forward = seconds_of(lambda: render(screen, faces, side, SIGMA), device, repeats)
    taken = seconds_of(both, device, repeats)
    found = both()
    times = {"forward_seconds": median(forward), "forward_backward_seconds": median(taken)}
    return times, found, leaf.grad


def fast(meshes: int, side: int, device: str, repeats: int) -> dict:
    """Time and memory of one case."""
    screen, faces = scene(meshes, device)
    weights = torch.rand(meshes, side, side, generator=torch.Generator().manual_seed(1)).to(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak_gigabytes(device)
    times, *_ = measure(silhouettes, screen, faces, weights, repeats)
    result = {"meshes": meshes, "faces": len(faces), "side": side, **times}
    return result | {"peak_gigabytes": peak_gigabytes(device), "peak_gigabytes_before": before}


def compare(case: dict, device: str, repeats: int) -> dict:
    """A case of :func:`fast` beside the naive way."""
    meshes, side = case["meshes"], case["side"]
    screen, faces = scene(meshes, device)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(meshes, side, side, generator=generator).to(device)
    chosen = torch.randperm(side**2, generator=generator)[:NAIVE_PIXELS].sort().values.to(device)
    result = dict(case)

    one, mask = screen[:1], torch.zeros(side**2, device=device)
    mask[chosen] = weights[0].flatten()[chosen]
    _, found, gradient = measure(silhouettes, one, faces, mask.reshape(1, side, side), 1)
    if device == "cpu":
        compiled, *_ = measure(silhouettes, one, faces, weights[:1], repeats)
        plain, *_ = measure(lambda *a: rasterize(PAIRS, *a), one, faces, weights[:1], repeats)
        result |= {f"one_mesh_{name}": value for name, value in compiled.items()}
        result |= {f"one_mesh_not_compiled_{name}": value for name, value in plain.items()}
    centres = pixel_centres(side, screen)
    points = torch.stack([centres[chosen % side], centres[chosen // side]], dim=1)
    results = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = median(
        seconds_of(
            lambda: results.append(naive(one, faces, points, mask[chosen])), device, NAIVE_REPEATS
        )
    )
    expected, slope = results[-1]
    per_pixel = case["forward_backward_seconds"] / meshes / side**2
    return result | {
        "naive_meshes": 1,
        "naive_pixels": len(chosen),
        "naive_forward_backward_seconds": taken,
        "naive_peak_gigabytes": peak_gigabytes(device),
        "ratio_per_mesh_and_pixel": taken / len(chosen) / per_pixel,
        "largest_difference": (found.flatten()[chosen] - expected).abs().max().item(),
        "largest_gradient_difference": (gradient - slope).abs().max().item(),
        "largest_gradient": slope.abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="record the results in this JSON file")
    arguments = parser.parse_args()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    result: dict = {
        "threads": torch.get_num_threads(),
        "note": "Other work may have run beside it (load_average).",
        "sigma": SIGMA,
    }
    met = True
    for device in devices:
        cases = [fast(*case, device, arguments.repeats) for case in CASES]
        cases = [compare(case, device, arguments.repeats) for case in cases]
        met &= cases[-1]["ratio_per_mesh_and_pixel"] >= WANTED_RATIO
        met &= all(case["largest_difference"] <= WANTED_DIFFERENCE for case in cases)
        result[device] = [
            {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in case.items()}
            for case in cases
        ]
    write(result | {"met": met}, arguments.out)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
