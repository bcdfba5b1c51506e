"""A plain Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) with mean pooling, in torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a ViT: pixels, channels and tokens count what their names say; `width` is the token's features."""

    image_size: int = 28
    patch_size: int = 4
    in_channels: int = 1
    width: int = 192
    depth: int = 5
    heads: int = 3
    mlp_ratio: int = 4
    classes: int = 10

    @property
    def tokens(self) -> int:
        """Return the number of patches of one image."""
        return (self.image_size // self.patch_size) ** 2


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width), with one fused qkv layer or three separate ones."""

    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.projections = nn.ModuleList(
            [nn.Linear(width, 3 * width)] if fused else [nn.Linear(width, width) for _ in range(3)]
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        _, tokens, width = x.shape
        projected = [layer(x) for layer in self.projections]
        parts = projected if len(projected) > 1 else projected[0].split(width, dim=-1)
        query, key, value = (p.reshape(-1, tokens, self.heads, width // self.heads).transpose(1, 2) for p in parts)
        scores = query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5
        mixed = functional.softmax(scores, dim=-1) @ value
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(-1, tokens, width))
        return joined


def dropped(branch: Tensor, share: float) -> Tensor:
    """Return a residual branch (batch, tokens, width), that of a random `share` of the samples zero (Huang 2016)."""
    keep = 1 - share
    return branch * (torch.rand(branch.shape[0], 1, 1) < keep) / keep


class Block(nn.Module):
    """A pre-norm transformer block; while training, each residual branch of a sample is dropped with `drop_path`."""

    def __init__(self, shape: ViTShape, *, fused: bool, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(shape.width)
        self.attention = Attention(shape.width, shape.heads, fused=fused)
        self.norm2 = nn.LayerNorm(shape.width)
        self.fc1 = nn.Linear(shape.width, shape.mlp_ratio * shape.width)
        self.fc2 = nn.Linear(shape.mlp_ratio * shape.width, shape.width)

    def _kept(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        return dropped(branch, self.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._kept(self.attention(self.norm1(x)))
        return x + self._kept(self.fc2(functional.gelu(self.fc1(self.norm2(x)))))


class ViT(nn.Module):
    """Map images (batch, channels, size, size), values in [0, 1], to logits (batch, classes)."""

    def __init__(self, shape: ViTShape, *, fused_qkv: bool = True, drop_path: float = 0.0) -> None:
        super().__init__()
        self.patch = nn.Conv2d(shape.in_channels, shape.width, shape.patch_size, stride=shape.patch_size)
        self.position = nn.Parameter(torch.zeros(1, shape.tokens, shape.width))
        rates = [drop_path * index / max(1, shape.depth - 1) for index in range(shape.depth)]
        self.blocks = nn.ModuleList(Block(shape, fused=fused_qkv, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.classes)
        nn.init.trunc_normal_(self.position, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        pooled: Tensor = self.norm(x).mean(dim=1)
        logits: Tensor = self.head(pooled)
        return logits
