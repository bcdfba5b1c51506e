"""The memory layout that convolutions train fastest in on CPUs."""

from __future__ import annotations

import torch
from torch import nn

# Channels last, torch 2.13 on CPUs (oneDNN) writes past its buffer where it computes the float32 weight gradient of a
# strided 1×1 convolution of fewer channels than a vector register has lanes: seen for 1 to 6 channels with the 8 lanes
# of AVX2; AVX-512 has 16. The default layout is safe.
_LANES = 16


def lay_out(network: nn.Module) -> None:
    """Put the weights of a network's convolutions channels last, which its activations then follow, if that is safe."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if any(_is_unsafe(convolution) for convolution in convolutions):
        return
    for convolution in convolutions:
        convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)


def _is_unsafe(convolution: nn.Conv2d) -> bool:
    single = convolution.kernel_size == (1, 1)
    return single and convolution.stride != (1, 1) and convolution.in_channels < _LANES
