"""Choice of device and precision."""

import torch


def resolve_device(name: str) -> str:
    """Return "cuda" or "cpu" for "auto", depending on this machine; other names unchanged."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def wants_bfloat16(precision: str, device: str) -> bool:
    """Return whether to compute in bf16: for "bfloat16", and for "auto" on a GPU."""
    return precision == "bfloat16" or (precision == "auto" and device.startswith("cuda"))
