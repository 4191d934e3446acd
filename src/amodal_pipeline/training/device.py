"""Where to compute, and in what precision."""

import torch


def resolve_device(name: str) -> str:
    """Return the device that "auto" means here, or ``name``."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def wants_bfloat16(precision: str, device: str) -> bool:
    """Return whether to compute in bf16: where asked for, and on a GPU unless asked otherwise."""
    return precision == "bfloat16" or (precision == "auto" and device.startswith("cuda"))
