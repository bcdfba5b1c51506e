"""Attention as one operator, and the rotary positions that go with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rankfold.errors import ModelError
from rankfold.training.node import Compute, Node, Operator

_LENGTHS = 6  # the input of lengths without padding, which is refused


@dataclass(frozen=True)
class _Scores:
    """How queries and keys are compared: `scale` None is 1/√width of a head, `softcap` 0 is none."""

    causal: bool
    scale: float | None
    softcap: float


def _attention(node: Node) -> Compute:
    scores = _Scores(node.flag("is_causal"), node.value("scale"), node.number("softcap", 0.0))
    query_heads, key_heads = node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)
    node.ignore("softmax_precision")  # a wish for a wider type
    node.only("qk_matmul_output_mode", 0)
    if node.has(_LENGTHS):
        raise ModelError("input nonpad_kv_seqlen")

    def compute(query: Tensor, key: Tensor, value: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
        mask, past_key, past_value = [*others, None, None, None][:3]
        flat = query.ndim == 3
        if flat:
            query, key, value = _heads(query, query_heads), _heads(key, key_heads), _heads(value, key_heads)
        past = 0
        if past_key is not None and past_value is not None:
            past = past_key.shape[2]
            key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
        bias = _bias(query, key, mask, past if scores.causal else None)
        mixed = _mixed(query, key, value, bias, scores)
        return (mixed.transpose(1, 2).flatten(2) if flat else mixed), key, value

    return compute


def _heads(x: Tensor, heads: int) -> Tensor:
    """Return (batch, tokens, heads · width) as (batch, heads, tokens, width)."""
    split: Tensor = x.unflatten(2, (heads, -1))
    return split.transpose(1, 2)


def _mixed(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scores: _Scores) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # several heads of queries read one of keys
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if not scores.softcap:
        fused: Tensor = functional.scaled_dot_product_attention(query, key, value, bias, scale=scores.scale)
        return fused
    scale = query.shape[-1] ** -0.5 if scores.scale is None else scores.scale
    products = scores.softcap * torch.tanh(query @ key.transpose(-2, -1) * scale / scores.softcap)
    shares = functional.softmax(products if bias is None else products + bias, -1)
    return torch.matmul(shares, value)


def _bias(query: Tensor, key: Tensor, mask: Tensor | None, past: int | None) -> Tensor | None:
    """Return what is added to the scores: -∞ where a query does not see a key.

    A causal query, `past` not None, sees the keys of the past, its own and those between.
    """
    tokens, seen = query.shape[2], key.shape[2]
    bias = None
    if mask is not None:
        bias = _hidden(~mask, query) if mask.dtype == torch.bool else mask
        bias = functional.pad(bias, (0, seen - bias.shape[-1]), value=-math.inf)  # a mask may be shorter
    if past is None:
        return bias
    later = torch.ones(tokens, seen, dtype=torch.bool, device=query.device).triu(past + 1)
    return _hidden(later, query) if bias is None else bias + _hidden(later, query)


def _hidden(where: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(where.shape, dtype=like.dtype, device=like.device).masked_fill(where, -math.inf)


def _rotary_embedding(node: Node) -> Compute:
    interleaved, heads = node.flag("interleaved"), node.integer("num_heads", 0)
    turned = node.integer("rotary_embedding_dim", 0)

    def compute(x: Tensor, cosines: Tensor, sines: Tensor, places: Tensor | None = None) -> Tensor:
        by_head = x.transpose(1, 2) if x.ndim == 4 else x.unflatten(2, (heads, -1))  # (batch, tokens, heads, width)
        if places is not None:
            cosines, sines = cosines[places.to(torch.int64)], sines[places.to(torch.int64)]
        width = turned or by_head.shape[-1]
        first, second = _halves(by_head[..., :width], interleaved=interleaved)
        cosine, sine = cosines[..., : width // 2].unsqueeze(2), sines[..., : width // 2].unsqueeze(2)
        real, imaginary = cosine * first - sine * second, sine * first + cosine * second
        joined = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
        whole = torch.cat([joined, by_head[..., width:]], -1)
        return whole.transpose(1, 2) if x.ndim == 4 else whole.flatten(2)

    return compute


def _halves(x: Tensor, *, interleaved: bool) -> tuple[Tensor, Tensor]:
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    first, second = x.chunk(2, -1)
    return first, second


OPERATORS = {
    ("", "Attention"): Operator(_attention, outputs=3),
    ("", "RotaryEmbedding"): Operator(_rotary_embedding),
}
