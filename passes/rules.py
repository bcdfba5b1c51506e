"""Which operators are looked at, and by which rule: recognise, check, bring to normal form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import NodeProto

from rankfold.passes import reasons
from rankfold.passes.conv_sites import conv_candidate
from rankfold.passes.gemm_sites import gemm_candidate
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.matmul_sites import matmul_candidate
from rankfold.passes.operands import Candidate

ONNX_DOMAINS = ("", "ai.onnx")
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Rule:
    """How nodes of one operator are folded.

    Attributes:
        op_type: The operator.
        recognise: Returns a node's normal form, or the reason why it is left alone.
        reads: What the rule takes, for the page of patterns.
        writes: What stands there afterwards.
    """

    op_type: str
    recognise: Callable[[GraphIndex, int], Candidate | str]
    reads: str
    writes: str


_RULES = {
    "MatMul": Rule(
        "MatMul",
        matmul_candidate,
        "a constant matrix on the right or on the left, an activation of any number of axes, with or without an Add of"
        " one constant per feature behind it; a stack of matrices along one axis, each with its own basis",
        "MatMul, MatMul; an Add stays, or is added where taking out the mean pays",
    ),
    "Gemm": Rule(
        "Gemm",
        gemm_candidate,
        "a constant matrix on either side, every transA, transB, alpha and beta, with or without C",
        "Gemm, Gemm; the activation's transposition stays with the first, alpha, beta and C go to the second",
    ),
    "Conv": Rule(
        "Conv",
        conv_candidate,
        "one group, kernels of any extents, 1-D to 3-D, any strides, dilations, pads and auto_pad, with or without"
        " bias",
        "Conv to `rank` channels with the old kernel and attributes, 1×1 Conv with the bias",
    ),
    "FusedMatMul": Rule(
        "FusedMatMul",
        matmul_candidate,
        "as MatMul, with transA, transB and alpha",
        "FusedMatMul, FusedMatMul; alpha goes to the second",
    ),
    "FusedGemm": Rule(
        "FusedGemm",
        gemm_candidate,
        "as Gemm; what the activation function hides is collected on the input's side",
        "Gemm, FusedGemm with the activation function",
    ),
}
_MICROSOFT_RULES = frozenset({"FusedMatMul", "FusedGemm"})
RULES = tuple(_RULES.values())
_LINEAR = frozenset(_RULES) | frozenset(reasons.OPERATORS_LEFT_ALONE)


def is_linear(node: NodeProto) -> bool:
    """Return whether a node is of an operator that is either folded or reported as left alone."""
    return node.op_type in _LINEAR


def judged(index: GraphIndex, place: int) -> Candidate | str:
    """Return the normal form of a linear node, or the reason why it is left alone."""
    node = index.nodes[place]
    home = (_MICROSOFT,) if node.op_type in _MICROSOFT_RULES else ONNX_DOMAINS
    if node.op_type in _RULES and node.domain in home:
        return _RULES[node.op_type].recognise(index, place)
    return reasons.OPERATORS_LEFT_ALONE.get(node.op_type, reasons.OTHER_DOMAIN.format(domain=node.domain))
