"""The reference networks by name: how large each is, how it is trained, and the file it ships as."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rankfold.models import demo
from rankfold.models.recipe import Recipe
from rankfold.models.resnet import ResNet, ResNetShape
from rankfold.models.vit import ViT, ViTShape

Shape = ViTShape | ResNetShape


@dataclass(frozen=True)
class Reference:
    """A network that ships: its sizes, its recipe and the name of its ONNX file."""

    shape: Shape
    recipe: Recipe
    file: str


REFERENCES = {
    "vit-fashion": Reference(ViTShape(), Recipe(), demo.MODEL_FILE),
    "resnet-fashion": Reference(
        ResNetShape(), Recipe(epochs=24, learning_rate=3e-3, weight_decay=0.05, drop_path=0.0), demo.RESNET_FILE
    ),
}


def build(shape: Shape, *, drop_path: float = 0.0) -> nn.Module:
    """Return an untrained network of a shape; a ResNet drops no paths."""
    return ViT(shape, drop_path=drop_path) if isinstance(shape, ViTShape) else ResNet(shape)
