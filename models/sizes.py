"""The networks of the literature in other sizes: for other images and classes, narrower, wider, shallower, deeper."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rankfold.models.mlp import MLPShape
from rankfold.models.networks import StandardShape
from rankfold.models.resnet_deep import DeepResNetShape, Form
from rankfold.models.vgg import VGGShape
from rankfold.models.vit_class_token import ClassTokenViTShape

SMALL_IMAGE = 64  # pixels along a side; the `cifar` form and patches of 4 pixels are the default up to here
_SMALL_PATCH, _PATCH = 4, 16


@dataclass(frozen=True)
class Sizes:
    """What is asked of a network; the defaults are the published sizes.

    Attributes:
        image_size: Pixels along a side.
        in_channels, classes: Of the images, and how many kinds of them.
        width: Factor of the channels or features; a transformer's heads are counted, each as wide as before.
        depth: Factor of the blocks of each stage, of a transformer's blocks or of hidden layers.
        form: `cifar` or `imagenet`, of networks with convolutions; None chooses by `image_size`.
        patch_size: Pixels along the side of a transformer's patch; None chooses by `image_size`.
    """

    image_size: int = 224
    in_channels: int = 3
    classes: int = 1000
    width: float = 1.0
    depth: float = 1.0
    form: Form | None = None
    patch_size: int | None = None


def sized(shape: StandardShape, sizes: Sizes) -> StandardShape:
    """Return a shape in other sizes; numbers of channels, heads and blocks are rounded, to one at least.

    Raises:
        ValueError: A size makes no sense, or the network has no such size.
    """
    _check(shape, sizes)
    match shape:
        case DeepResNetShape() | VGGShape():
            changed: StandardShape = replace(
                shape,
                widths=tuple(_times(width, sizes.width) for width in shape.widths),
                depths=tuple(_times(depth, sizes.depth) for depth in shape.depths),
                form=sizes.form or ("cifar" if sizes.image_size <= SMALL_IMAGE else "imagenet"),
            )
            if isinstance(changed, VGGShape):
                changed = replace(changed, hidden=_times(changed.hidden, sizes.width))
        case ClassTokenViTShape():
            heads = _times(shape.heads, sizes.width)
            patch = sizes.patch_size or (_SMALL_PATCH if sizes.image_size <= SMALL_IMAGE else _PATCH)
            if sizes.image_size % patch:
                raise ValueError(f"images of {sizes.image_size} pixels do not divide into patches of {patch}")
            head_width = shape.width // shape.heads
            depth = _times(shape.depth, sizes.depth)
            changed = replace(shape, patch_size=patch, heads=heads, width=heads * head_width, depth=depth)
        case MLPShape():
            width, depth = _times(shape.width, sizes.width), _times(shape.depth, sizes.depth)
            changed = replace(shape, width=width, depth=depth)
    return replace(changed, image_size=sizes.image_size, in_channels=sizes.in_channels, classes=sizes.classes)


def _check(shape: StandardShape, sizes: Sizes) -> None:
    for name in ("image_size", "in_channels", "classes", "width", "depth", "patch_size"):
        value = getattr(sizes, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}, expected a positive number")
    convolves = isinstance(shape, DeepResNetShape | VGGShape)
    if sizes.form is not None and not convolves:
        raise ValueError(f"form (--form) is {sizes.form!r}, but only ResNets and VGG have forms; leave it out")
    if sizes.patch_size is not None and not isinstance(shape, ClassTokenViTShape):
        raise ValueError(f"patch_size (--patch-size) is {sizes.patch_size}, but only transformers have patches")


def _times(count: int, factor: float) -> int:
    return max(1, round(count * factor))
