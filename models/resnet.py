"""A small residual network (He et al. 2016, arXiv 1512.03385) in the form for images of few pixels, in torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from rankfold.models.layout import lay_out


@dataclass(frozen=True)
class ResNetShape:
    """Sizes of a ResNet; each stage has its channels in `widths` and its number of blocks in `depths`."""

    image_size: int = 28
    in_channels: int = 1
    widths: tuple[int, ...] = (16, 48, 96)
    depths: tuple[int, ...] = (1, 2, 2)
    classes: int = 10


class NormedConv(nn.Conv2d):
    """A convolution with batch normalisation in the place of a bias; `stride` divides height and width."""

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(x))
        return normed


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where width or size changes."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(channels, width, kernel=3, stride=stride)
        self.conv2 = NormedConv(width, width, kernel=3)
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else NormedConv(channels, width, kernel=1, stride=stride)
        nn.init.zeros_(self.conv2.norm.weight)  # every block starts as its shortcut (Goyal et al. 2017, 1706.02677)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.shortcut(x) + self.conv2(functional.relu(self.conv1(x))))


class ResNet(nn.Module):
    """Map images (batch, channels, size, size), values in [0, 1], to logits (batch, classes)."""

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        first = shape.widths[0]
        self.stem = NormedConv(shape.in_channels, first, kernel=3)
        self.stages = nn.ModuleList(
            _stage(channels, width, blocks, stride=1 if index == 0 else 2)
            for index, ((channels, width), blocks) in enumerate(
                zip(pairwise((first, *shape.widths)), shape.depths, strict=True)
            )
        )
        self.head = nn.Linear(shape.widths[-1], shape.classes)
        lay_out(self)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.stem(image))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def _stage(channels: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = Block(channels, width, stride=stride)
    return nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(blocks - 1)))
