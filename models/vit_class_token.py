"""The Vision Transformers S, B and L (Dosovitskiy et al. 2021, arXiv 2010.11929), modules named as timm names them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankfold.models.vit import dropped

_EPSILON = 1e-6  # of every norm, in timm and in torchvision


@dataclass(frozen=True)
class ClassTokenViTShape:
    """Sizes of a ViT that classifies by a token of its own; the defaults are those of ViT-B/16."""

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """Return the number of patches of one image, and the token that classifies."""
        return (self.image_size // self.patch_size) ** 2 + 1


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width); `qkv` gives queries, keys and values, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        _, tokens, width = x.shape
        head = width // self.heads
        parts = self.qkv(x).split(width, dim=-1)
        query, key, value = (part.reshape(-1, tokens, self.heads, head).transpose(1, 2) for part in parts)
        mixed = functional.softmax(query @ key.transpose(-2, -1) * head**-0.5, dim=-1) @ value
        joined: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, tokens, width))
        return joined


class Block(nn.Module):
    """A pre-norm transformer block; while training, each residual branch of a sample is dropped with `drop_path`."""

    def __init__(self, shape: ClassTokenViTShape, *, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        hidden = shape.mlp_ratio * shape.width
        self.norm1 = nn.LayerNorm(shape.width, _EPSILON)
        self.attn = Attention(shape.width, shape.heads)
        self.norm2 = nn.LayerNorm(shape.width, _EPSILON)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(shape.width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, shape.width))
        )

    def _kept(self, branch: Tensor) -> Tensor:
        return dropped(branch, self.drop_path) if self.training and self.drop_path > 0 else branch

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._kept(self.attn(self.norm1(x)))
        return x + self._kept(self.mlp(self.norm2(x)))


class ClassTokenViT(nn.Module):
    """Map images (batch, channels, size, size) to logits (batch, classes)."""

    def __init__(self, shape: ClassTokenViTShape, *, drop_path: float = 0.0) -> None:
        super().__init__()
        patch = nn.Conv2d(shape.in_channels, shape.width, shape.patch_size, stride=shape.patch_size)
        self.patch_embed = nn.Sequential(OrderedDict(proj=patch))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.tokens, shape.width))
        rates = [drop_path * index / max(1, shape.depth - 1) for index in range(shape.depth)]
        self.blocks = nn.ModuleList(Block(shape, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(shape.width, _EPSILON)
        self.head = nn.Linear(shape.width, shape.classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patch_embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits
