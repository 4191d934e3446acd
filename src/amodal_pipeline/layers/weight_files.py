"""Files of weights that others have written."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict: ``.safetensors``, or a PyTorch file that holds tensors alone.

    They may lie under "model" or "state_dict" in the file.

    Raises:
        ValueError: it cannot be read, or holds something else; says what, in one sentence.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a file of weights ({reason})") from None
    except Exception:  # of any type: the unpickler stumbles over other bytes somewhere
        # PyTorch's own text advises to load the file all the same, which may run a program in it.
        found = None
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    named = isinstance(found, dict) and len(found) > 0
    if not named or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"{path} is no file of tensors by their names: write one with "
            "torch.save(model.state_dict(), file), or as .safetensors"
        )
    return found
