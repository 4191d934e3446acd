"""Choice of device and precision."""

from typing import Literal

import torch


def resolve_device(name: str) -> str:
    """Return "cuda" or "cpu" for "auto", depending on this machine; other names unchanged."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def resolve_precision(name: str, device: str) -> Literal["float32", "bfloat16"]:
    """Return the precision that "auto" is on this machine; other names unchanged.

    It is bf16 on a GPU, and on a processor that multiplies matrices in bf16 (AVX512-BF16 or AMX);
    on others bf16 is slower than float32.
    """
    if name != "auto":
        return name
    if device.startswith("cuda"):
        return "bfloat16"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def wants_bfloat16(precision: str, device: str) -> bool:
    """Return whether to compute in bf16: see :func:`resolve_precision`."""
    return resolve_precision(precision, device) == "bfloat16"
