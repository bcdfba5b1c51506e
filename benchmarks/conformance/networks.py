"""Small torch networks, one for each way in which a layer that multiplies by a weight comes out of an exporter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.conformance.compressing import lowered

DIM = 64


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


class ChunkedQkv(nn.Module):
    """Attention whose queries, keys and values are one product, cut in three."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v)


class Block(nn.Module):
    """An encoder layer written out: attention and a perceptron, each behind a norm and beside a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = ChunkedQkv()
        self.norms = nn.ModuleList([nn.LayerNorm(DIM), nn.LayerNorm(DIM)])
        self.perceptron = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.perceptron(self.norms[1](x))


class SelfAttention(nn.Module):
    """torch's own attention module."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    """A recurrent layer with a linear one behind it."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.head = kind(DIM, DIM, batch_first=True), nn.Linear(DIM, 2 * DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0])


class Experts(nn.Module):
    """A router and a stack of experts in one tensor, multiplied at once, by matmul or by einsum."""

    def __init__(self, *, einsum: bool) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, 4)
        self.up = nn.Parameter(torch.randn(4, DIM, 2 * DIM) / 8)
        self.down = nn.Parameter(torch.randn(4, 2 * DIM, DIM) / 8)
        self.einsum = einsum

    def forward(self, x: Tensor) -> Tensor:
        share = torch.softmax(self.router(x), dim=-1)
        if self.einsum:
            hidden = torch.relu(torch.einsum("bi,eio->ebo", x, self.up))
            found = torch.einsum("ebi,eio->ebo", hidden, self.down)
        else:
            found = torch.matmul(torch.relu(torch.matmul(x, self.up)), self.down)
        return (share.transpose(0, 1).unsqueeze(-1) * found).sum(0)


class TiedEmbedding(nn.Module):
    """A language model that reads and writes with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(96, DIM), nn.Linear(DIM, DIM)
        self.head = nn.Linear(DIM, 96, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.middle(self.embedding(tokens))))


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


class Cached(nn.Module):
    """One decoding step that takes the keys and values so far and gives them back longer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        return self.out(torch.softmax(q @ keys.transpose(-1, -2) / 8, dim=-1) @ values), keys, values


class Heads(nn.Module):
    """Several outputs: a label, an embedding and what lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.label, self.embed = nn.Linear(DIM, DIM), nn.Linear(DIM, 40), nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.tanh(self.body(x))
        return self.label(hidden), self.embed(hidden), hidden


class Branching(nn.Module):
    """A layer inside each branch of a condition on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.one, self.other = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.before(x)
        return torch.cond(hidden.sum() > 0, lambda h: self.one(h), lambda h: self.other(h), (hidden,))


class ScriptedBranch(Branching):
    """The same as TorchScript has it."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.before(x)
        if bool(hidden.sum() > 0):
            found = self.one(hidden)
        else:
            found = self.other(hidden)
        return found


class ScriptedLoop(nn.Module):
    """A layer inside a loop whose length is an input's."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.step = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.before(x)
        for _ in range(x.size(0)):
            hidden = torch.relu(self.step(hidden))
        return hidden


def lower(module: nn.Module) -> nn.Module:
    """Replace every weight by the nearest one of a low rank, as the matrix that multiplies rows or patches."""
    with torch.no_grad():
        for weight in dict.fromkeys(module.parameters()):
            if weight.ndim < 2:  # noqa: PLR2004
                continue
            stacked = isinstance(module, Experts) and weight.ndim == 3  # noqa: PLR2004
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
    "conv, 1-D": Network(lambda: nn.Sequential(nn.Conv1d(DIM, 96, 3, padding=1), nn.ReLU(), nn.Conv1d(96, DIM, 1)), _signal),
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
        lambda: nn.Sequential(nn.Conv2d(DIM, 96, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, DIM)),
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
