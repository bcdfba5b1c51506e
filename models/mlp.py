"""A plain fully connected network, as studies of rank collapse train it (Zangrando et al. 2024, arXiv 2402.03991)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class MLPShape:
    """Sizes of a fully connected network: `depth` hidden layers of `width` features, and a head."""

    image_size: int = 28
    in_channels: int = 1
    width: int = 512
    depth: int = 5
    classes: int = 10


class MLP(nn.Module):
    """Map images (batch, channels, size, size), their pixels as one row, to logits (batch, classes)."""

    def __init__(self, shape: MLPShape) -> None:
        super().__init__()
        extents = [shape.in_channels * shape.image_size**2] + [shape.width] * shape.depth
        layers = [nn.Linear(given, made) for given, made in pairwise(extents)]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(extents[-1], shape.classes)
        for layer in (*layers, self.head):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        for layer in self.layers:
            x = functional.relu(layer(x))
        logits: Tensor = self.head(x)
        return logits
