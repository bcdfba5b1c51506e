"""How a convolution's kernel slides over a tensor, and so what its rows are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """What a kernel covers at one place of the output: one row of (channels, *kernel) numbers, flattened.

    Places in the padding count as zeros, as the convolution takes them. Empty means the operator's default.

    Attributes:
        kernel, strides, dilations, pads, auto_pad: As ONNX's Conv states them.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
