"""Small torch modules that hold a layer in each of the ways in which exporters meet one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DIM = 64


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
        return torch.cond(hidden.sum() > 0, self.one.forward, self.other.forward, (hidden,))


class ScriptedBranch(Branching):
    """The same as TorchScript has it."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.before(x)
        return self.one(hidden) if bool(hidden.sum() > 0) else self.other(hidden)


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
