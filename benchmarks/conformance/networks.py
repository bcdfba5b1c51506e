"""Small torch networks, one for each way in which a layer that multiplies by a weight comes out of an exporter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.conformance.compressing import lowered
from benchmarks.conformance.layers import (
    DIM,
    Block,
    Branching,
    Cached,
    ChunkedQkv,
    Experts,
    Heads,
    Recurrent,
    ScriptedBranch,
    ScriptedLoop,
    SelfAttention,
    Shared,
    TiedEmbedding,
)


@dataclass(frozen=True)
class Network:
    """A network, and how its inputs look for a batch size.

    Attributes:
        make: Builds the module.
        inputs: Batch size to example inputs.
        exporters: Which of the two can export it.
        dynamic: Whether axis 0 of every input is exported as a dynamic one.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    exporters: tuple[str, ...] = ("torchscript", "dynamo")
    dynamic: bool = True


def lower(module: nn.Module) -> nn.Module:
    """Replace every weight by the nearest one of a low rank, as the matrix that multiplies rows or patches."""
    with torch.no_grad():
        for weight in dict.fromkeys(module.parameters()):
            if weight.ndim < 2:
                continue
            stacked = isinstance(module, Experts) and weight.ndim == 3
            matrix = weight if stacked else weight.reshape(weight.shape[0], -1)
            weight.copy_(torch.from_numpy(lowered(matrix.numpy())).reshape(weight.shape))
    return module


def _rows(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, DIM) + 0.25,)


def _tokens(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 10, DIM) + 0.25,)


def _image(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, DIM, 12, 12) + 0.25,)


def _signal(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, DIM, 20) + 0.25,)


def _cache(batch: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(batch, length, DIM) for length in (1, 7, 7))


NETWORKS = {
    "linear, 2-D": Network(lambda: nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.ReLU(), nn.Linear(2 * DIM, DIM)), _rows),
    "linear without bias, 2-D": Network(lambda: nn.Linear(DIM, 2 * DIM, bias=False), _rows),
    "linear, 3-D": Network(lambda: nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM)), _tokens),
    "linear without bias, 3-D": Network(lambda: nn.Linear(DIM, 2 * DIM, bias=False), _tokens),
    "linear, fixed batch": Network(lambda: nn.Linear(DIM, 2 * DIM), _rows, dynamic=False),
    "chunked qkv": Network(ChunkedQkv, _tokens),
    "MultiheadAttention": Network(SelfAttention, _tokens),
    "TransformerEncoderLayer": Network(
        lambda: nn.TransformerEncoderLayer(DIM, 4, 2 * DIM, batch_first=True, dropout=0.0), _tokens, ("dynamo",)
    ),
    "encoder block": Network(Block, _tokens),
    "LSTM": Network(lambda: Recurrent(nn.LSTM), _tokens, dynamic=False),
    "GRU": Network(lambda: Recurrent(nn.GRU), _tokens, dynamic=False),
    "conv, 1-D": Network(
        lambda: nn.Sequential(nn.Conv1d(DIM, 96, 3, padding=1), nn.ReLU(), nn.Conv1d(96, DIM, 1)), _signal
    ),
    "conv, 2-D": Network(
        lambda: nn.Sequential(
            nn.Conv2d(DIM, 96, 3, stride=2, padding=1), nn.BatchNorm2d(96), nn.ReLU(), nn.Conv2d(96, DIM, 1, bias=False)
        ),
        _image,
    ),
    "conv, dilated and uneven": Network(
        lambda: nn.Conv2d(DIM, 96, (3, 1), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), _image
    ),
    "conv, groups and depthwise": Network(
        lambda: nn.Sequential(
            nn.Conv2d(DIM, DIM, 3, groups=DIM), nn.Conv2d(DIM, 96, 1), nn.ReLU(), nn.Conv2d(96, DIM, 3, groups=2)
        ),
        _image,
    ),
    "conv, transposed": Network(
        lambda: nn.Sequential(nn.ConvTranspose2d(DIM, 48, 2, stride=2), nn.ReLU(), nn.Conv2d(48, DIM, 3)), _image
    ),
    "classifier": Network(
        lambda: nn.Sequential(
            nn.Conv2d(DIM, 96, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, DIM)
        ),
        _image,
    ),
    "experts by matmul": Network(lambda: Experts(einsum=False), _rows),
    "experts by einsum": Network(lambda: Experts(einsum=True), _rows),
    "tied embedding": Network(TiedEmbedding, lambda batch: (torch.randint(0, 96, (batch, 10)),)),
    "shared layer": Network(Shared, _rows),
    "decoder step with its cache": Network(Cached, _cache),
    "several outputs": Network(Heads, _rows),
    "branches": Network(Branching, _rows, ("dynamo",), dynamic=False),
    "branches, scripted": Network(ScriptedBranch, _rows, ("torchscript",)),
    "loop, scripted": Network(ScriptedLoop, _rows, ("torchscript",)),
}
