"""The networks by name: how large each is, how it is trained, and the file that those that ship are in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

from rankfold.models import demo
from rankfold.models.mlp import MLP, MLPShape
from rankfold.models.recipe import Recipe
from rankfold.models.resnet import ResNet, ResNetShape
from rankfold.models.resnet_deep import DeepResNet, DeepResNetShape
from rankfold.models.vgg import VGG, VGGShape
from rankfold.models.vit import ViT, ViTShape
from rankfold.models.vit_class_token import ClassTokenViT, ClassTokenViTShape

StandardShape = DeepResNetShape | VGGShape | ClassTokenViTShape | MLPShape
Shape = ViTShape | ResNetShape | StandardShape
_Shape_co = TypeVar("_Shape_co", bound=Shape, covariant=True)


@dataclass(frozen=True)
class Reference(Generic[_Shape_co]):
    """A network with its recipe.

    Attributes:
        shape, recipe: Its sizes, and how it is trained.
        file: The name of its ONNX file.
    """

    shape: _Shape_co
    recipe: Recipe
    file: str


# Those that ship, each of one size and for Fashion-MNIST.
REFERENCES: dict[str, Reference[ViTShape | ResNetShape]] = {
    "vit-fashion": Reference(ViTShape(), Recipe(), demo.MODEL_FILE),
    "resnet-fashion": Reference(
        ResNetShape(), Recipe(epochs=24, learning_rate=3e-3, weight_decay=0.05, drop_path=0.0), demo.RESNET_FILE
    ),
}

# Random crops out of images padded by 4 pixels, and flips: He et al. 2016, section 4.2, with their weight decay as it
# became usual for CIFAR. Averages over a hundred steps, so that short runs have one, too.
_CONVOLUTIONS = Recipe(
    batch=128,
    optimizer="sgd",
    learning_rate=0.05,
    weight_decay=5e-4,
    label_smoothing=0.0,
    drop_path=0.0,
    shift=4,
    erase=0.0,
    average=0.99,
    precision="float32",
)
_TRANSFORMERS = Recipe(
    batch=128, weight_decay=0.05, shift=4, erase=0.0, average=0.99, warmup_epochs=3.0, precision="float32"
)

# Those of the literature, in the published sizes; `rankfold.models.sizes.sized` gives them others.
STANDARD: dict[str, Reference[StandardShape]] = {
    "resnet18": Reference(DeepResNetShape(), _CONVOLUTIONS, "resnet18.onnx"),
    "resnet50": Reference(DeepResNetShape(depths=(3, 4, 6, 3), bottleneck=True), _CONVOLUTIONS, "resnet50.onnx"),
    "vgg19_bn": Reference(VGGShape(), _CONVOLUTIONS, "vgg19_bn.onnx"),
    "vit_s_16": Reference(ClassTokenViTShape(width=384, heads=6), _TRANSFORMERS, "vit_s_16.onnx"),
    "vit_b_16": Reference(ClassTokenViTShape(), _TRANSFORMERS, "vit_b_16.onnx"),
    "vit_l_16": Reference(ClassTokenViTShape(width=1024, depth=24, heads=16), _TRANSFORMERS, "vit_l_16.onnx"),
    "mlp": Reference(MLPShape(), _CONVOLUTIONS, "mlp.onnx"),
}


def build(shape: Shape, *, drop_path: float = 0.0) -> nn.Module:
    """Return an untrained network of a shape; only transformers drop paths."""
    match shape:
        case ViTShape():
            return ViT(shape, drop_path=drop_path)
        case ClassTokenViTShape():
            return ClassTokenViT(shape, drop_path=drop_path)
        case ResNetShape():
            return ResNet(shape)
        case DeepResNetShape():
            return DeepResNet(shape)
        case VGGShape():
            return VGG(shape)
        case MLPShape():
            return MLP(shape)
