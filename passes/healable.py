"""What of a folded model can be healed: its factors, its biases and the scales and shifts of its norms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from rankfold.passes.graph_index import GraphIndex, index_graph
from rankfold.passes.metadata import read_pairs
from rankfold.passes.model_file import Model

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm"})
# Operands that hold a scale, a shift or a bias by what the operator means.
_OPERANDS = {
    "Gemm": (2,),
    "FusedGemm": (2,),
    "Conv": (2,),
    "LayerNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "RMSNormalization": (1,),
    "BatchNormalization": (1, 2),  # not the mean and variance, which are statistics
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3),
    "BiasGelu": (1,),
    "FastGelu": (1,),
}
# A norm that is spelt out ends in a division (or a product with a reciprocal), a scale and a shift; a fold may end in
# a Concat or a Gather.
_BEFORE_SHIFT = _PRODUCTS | {"Mul", "Concat", "Gather", "Add"}
_BEFORE_SCALE = _PRODUCTS | {"Div", "Mul", "Add", "LayerNormalization", "BatchNormalization"}


@dataclass(frozen=True)
class Healable:
    """Initializers that may take other values.

    Attributes:
        factors: Those of the recorded pairs.
        others: Biases, and scales and shifts of norms, in file order.
    """

    factors: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return all of them."""
        return (*self.factors, *self.others)


def find_healable(model: Model) -> Healable:
    """Return what may be healed of a model; nothing where no pairs are recorded.

    Constants that a caller may override, that nested graphs read, or that also serve as something else are left alone.
    """
    index = index_graph(model.proto)
    pairs = read_pairs(model)
    factors = dict.fromkeys(name for pair in pairs for name in (pair.down, pair.up) if is_constant_float(index, name))
    if not factors:
        return Healable((), ())
    served = {name for node in index.nodes for name in _serving(index, node)}
    others = tuple(name for name in index.initializers if name in served and name not in factors)
    return Healable(tuple(factors), tuple(name for name in others if _serves_only(index, name)))


def is_constant_float(index: GraphIndex, name: str) -> bool:
    """Return whether a name is an initializer of floating-point numbers that nobody can override."""
    return name in index.initializers and name not in index.pinned and index.initializers[name].data_type in _FLOATS


def is_vector(index: GraphIndex, name: str) -> bool:
    """Return whether a name is such an initializer with one axis alone that is longer than 1."""
    if not is_constant_float(index, name):
        return False
    dims = index.initializers[name].dims
    size = math.prod(dims)
    return bool(size > 1 and max(dims) == size)


def _serving(index: GraphIndex, node: NodeProto) -> Iterator[str]:
    """Yield the vectors that a node reads as a bias, a scale or a shift."""
    places: tuple[int, ...] = _OPERANDS.get(node.op_type, ())
    if node.op_type in ("Add", "Mul") and len(node.input) == 2:
        before = _BEFORE_SHIFT if node.op_type == "Add" else _BEFORE_SCALE
        places = tuple(place for place in (0, 1) if _made_by(index, node.input[1 - place]) in before)
    yield from (
        node.input[place] for place in places if place < len(node.input) and is_vector(index, node.input[place])
    )


def _made_by(index: GraphIndex, tensor: str) -> str:
    place = index.producer.get(tensor)
    return "" if place is None else index.nodes[place].op_type


def _serves_only(index: GraphIndex, name: str) -> bool:
    return all(name in set(_serving(index, index.nodes[place])) for place in index.readers[name])
