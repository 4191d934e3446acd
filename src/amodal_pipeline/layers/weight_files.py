"""Reading of weight files written by others."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from a PyTorch file that holds tensors only.

    They may lie under "model" or "state_dict" in the file.

    Raises:
        ValueError: the file cannot be read or holds other data; says what, in one sentence.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} cannot be read as a file of weights ({reason}): copy or download it again"
        ) from None
    except Exception:  # the unpickler fails on other bytes with an error of any type
        # PyTorch's own message advises to load the file anyway, which may run a program in it.
        found = None
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    named = isinstance(found, dict) and len(found) > 0
    if not named or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"{path} is not a file of named tensors: write one with "
            "torch.save(model.state_dict(), file), or as .safetensors"
        )
    return found
