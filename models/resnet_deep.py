"""ResNet-18, ResNet-50 and their like (He et al. 2016, arXiv 1512.03385), modules named as torchvision names them.

The strides of three-layer blocks are in their 3×3 convolution, as in torchvision and timm.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from rankfold.models.layout import lay_out

Form = Literal["cifar", "imagenet"]
_EXPANSION = 4  # of a bottleneck: it gives four times the channels of its 3×3 convolution


@dataclass(frozen=True)
class DeepResNetShape:
    """Sizes of a ResNet; the defaults are those of ResNet-18.

    Attributes:
        widths, depths: Channels and blocks of each stage; of a bottleneck, the channels of its 3×3 convolution.
        bottleneck: Blocks of three convolutions (1×1, 3×3, 1×1), not of two 3×3.
        form: `imagenet` begins with a 7×7 convolution of stride 2 and a max-pool, `cifar` with a 3×3 convolution.
    """

    image_size: int = 224
    in_channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    form: Form = "imagenet"
    classes: int = 1000


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels, width, kernel=3, stride=stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, kernel=3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)
        nn.init.zeros_(self.bn2.weight)  # every block starts as its shortcut (Goyal et al. 2017, 1706.02677)

    def forward(self, x: Tensor) -> Tensor:
        made = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(made)) + self.downsample(x))


class Bottleneck(nn.Module):
    """A 3×3 convolution between two of 1×1, beside a shortcut."""

    expansion = _EXPANSION

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        wide = _EXPANSION * width
        self.conv1, self.bn1 = _conv(channels, width, kernel=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, kernel=3, stride=stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, wide, kernel=1), nn.BatchNorm2d(wide)
        self.downsample = _shortcut(channels, wide, stride)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        made = functional.relu(self.bn1(self.conv1(x)))
        made = functional.relu(self.bn2(self.conv2(made)))
        return functional.relu(self.bn3(self.conv3(made)) + self.downsample(x))


class DeepResNet(nn.Module):
    """Map images (batch, channels, size, size) to logits (batch, classes)."""

    def __init__(self, shape: DeepResNetShape) -> None:
        super().__init__()
        first = shape.widths[0]
        small = shape.form == "cifar"
        self.conv1 = _conv(shape.in_channels, first, kernel=3 if small else 7, stride=1 if small else 2)
        self.bn1 = nn.BatchNorm2d(first)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        block: type[Bottleneck | BasicBlock] = Bottleneck if shape.bottleneck else BasicBlock
        given = (first, *(block.expansion * width for width in shape.widths))
        self.stages = len(shape.widths)
        for number, (channels, blocks) in enumerate(zip(pairwise(given), shape.depths, strict=True), start=1):
            width = channels[1] // block.expansion
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            inputs = [channels[0]] + [channels[1]] * (blocks - 1)
            layers = [block(inner, width, stride=stride) for inner, stride in zip(inputs, strides, strict=True)]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.fc = nn.Linear(given[-1], shape.classes)
        lay_out(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(image))))
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def _conv(channels: int, width: int, *, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return nn.Sequential(_conv(channels, width, kernel=1, stride=stride), nn.BatchNorm2d(width))
