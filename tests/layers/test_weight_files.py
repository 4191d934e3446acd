"""Files of weights that others have written."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from amodal_pipeline.layers.backbone import STRIDES, timm_body
from amodal_pipeline.layers.weight_files import read_tensors


def test_both_formats_give_the_same_tensors(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        found = read_tensors(tmp_path / name)
        assert all(torch.equal(found[k], v) for k, v in state.items())


@pytest.mark.parametrize("name", ["module.pth", "list.pth", "text.pth", "cut.pth", "empty.pth"])
def test_what_is_no_state_dict_is_refused_without_advice_to_run_it(tmp_path, name):
    path = tmp_path / name
    content = {"module.pth": nn.Linear(3, 2), "list.pth": [1, 2]}
    torch.save(content.get(name, {"a": torch.zeros(100)}), path)
    if name in ("text.pth", "cut.pth", "empty.pth"):
        path.write_bytes({"text.pth": b"text", "empty.pth": b""}.get(name, path.read_bytes()[:700]))
    with pytest.raises(
        ValueError, match=r"\.pth (is not a file of named tensors|cannot be read)"
    ) as raised:
        read_tensors(path)
    shown = f"{raised.value}{'' if raised.value.__suppress_context__ else raised.value.__context__}"
    assert "weights_only" not in shown and "\n" not in shown


def test_a_backbone_of_other_widths_is_named(tmp_path):
    torch.save(timm_body("resnet18", None, STRIDES).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(
        ValueError, match=r"resnet18\.pth holds no weights of the shape of"
    ) as raised:
        timm_body("resnet50", str(tmp_path / "resnet18.pth"), STRIDES)
    assert len(str(raised.value)) < 400
