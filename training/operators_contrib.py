"""Operators of onnxruntime's own domain that its optimiser puts in the place of others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankfold.errors import ModelError
from rankfold.training.node import Compute, Node, Operator, plain

DOMAIN = "com.microsoft"


def _fused_matmul(node: Node) -> Compute:
    left, right, alpha = node.flag("transA"), node.flag("transB"), node.number("alpha", 1.0)
    if node.flag("transBatchA") or node.flag("transBatchB"):
        raise ModelError("attribute transBatchA or transBatchB")

    def compute(a: Tensor, b: Tensor) -> Tensor:
        product = torch.matmul(_turned(a) if left else a, _turned(b) if right else b)
        return product if alpha == 1 else alpha * product

    return compute


def _turned(x: Tensor) -> Tensor:
    """Transpose matrices; a vector, as the runtime does, stays."""
    return x.mT if x.ndim > 1 else x


def _skip_layer_normalization(node: Node) -> Compute:
    """Read a sum and its LayerNormalization in one; the sum itself is the fourth output."""
    epsilon = node.number("epsilon", 1e-12)  # the contrib operator's own default

    def compute(
        x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        summed = x + skip if bias is None else x + skip + bias
        return (*torch.native_layer_norm(summed, x.shape[-1:], scale, shift, epsilon), summed)

    return compute


def _bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(x + bias)


def _fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def _quick_gelu(node: Node) -> Compute:
    alpha = node.number("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


OPERATORS = {
    (DOMAIN, "FusedMatMul"): Operator(_fused_matmul),
    (DOMAIN, "SkipLayerNormalization"): Operator(_skip_layer_normalization, outputs=4),
    (DOMAIN, "Gelu"): plain(functional.gelu),
    (DOMAIN, "BiasGelu"): plain(_bias_gelu),
    (DOMAIN, "FastGelu"): plain(_fast_gelu),
    (DOMAIN, "QuickGelu"): Operator(_quick_gelu),
}
