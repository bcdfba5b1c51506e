"""VGG-19 with batch normalisation (Simonyan and Zisserman 2015, arXiv 1409.1556), named as torchvision names it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from rankfold.models.layout import lay_out
from rankfold.models.resnet_deep import Form

_EXTENT = 7  # of the features that the `imagenet` head reads: 224 pixels halved five times


@dataclass(frozen=True)
class VGGShape:
    """Sizes of a VGG network; the defaults are those of VGG-19.

    Attributes:
        widths, depths: Channels and 3×3 convolutions of each stage; a max-pool that halves ends the stage.
        hidden: Features of the two hidden layers of the `imagenet` head.
        form: The head: `imagenet` has three linear layers on 7×7 features, `cifar` one on their mean.
    """

    image_size: int = 224
    in_channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 4, 4, 4)
    hidden: int = 4096
    form: Form = "imagenet"
    classes: int = 1000


class VGG(nn.Module):
    """Map images (batch, channels, size, size) to logits (batch, classes)."""

    def __init__(self, shape: VGGShape) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(shape))
        self.pooled = shape.form == "cifar"
        self.classifier = nn.Linear(shape.widths[-1], shape.classes) if self.pooled else _imagenet_head(shape)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        lay_out(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.features(image)
        if self.pooled:
            x = x.mean(dim=(2, 3))
        else:
            x = x if x.shape[-1] == _EXTENT else functional.adaptive_avg_pool2d(x, _EXTENT)
            x = x.flatten(1)
        logits: Tensor = self.classifier(x)
        return logits


def _features(shape: VGGShape) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels, size = shape.in_channels, shape.image_size
    for width, blocks in zip(shape.widths, shape.depths, strict=True):
        for _ in range(blocks):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, ceil_mode=size % 2 == 1))  # so that 28 pixels can be halved five times, too
        size = (size + 1) // 2
    return layers


def _imagenet_head(shape: VGGShape) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(shape.widths[-1] * _EXTENT**2, shape.hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(shape.hidden, shape.hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(shape.hidden, shape.classes),
    )
