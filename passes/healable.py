"""What of a folded model can be healed: factors, weights that were left dense, biases, scales and shifts of norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from rankfold.passes.constants import TRACED
from rankfold.passes.graph_index import GraphIndex, index_graph
from rankfold.passes.metadata import read_pairs
from rankfold.passes.model_file import Model
from rankfold.passes.sites import find_sites

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
        dense: Weights of layers that could have been folded and were not, in graph order. They are trained alone:
            in closed form there is nothing to gain, since what they make of the original's input is the original's.
    """

    factors: tuple[str, ...]
    others: tuple[str, ...]
    dense: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return all of them."""
        return (*self.factors, *self.others, *self.dense)


def find_healable(model: Model, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Healable:
    """Return what may be healed of a model; nothing where no pairs are recorded.

    Constants that a caller may override, that nested graphs read, or that also serve as something else are left alone.

    Args:
        model: The model.
        include, exclude: Patterns, as for a compression: weights that they put out of its reach are left as they are.
    """
    index = index_graph(model.proto)
    pairs = read_pairs(model)
    factors = dict.fromkeys(name for pair in pairs for name in (pair.down, pair.up) if is_constant_float(index, name))
    if not factors:
        return Healable((), ())
    served = {name for node in index.nodes for name in _serving(index, node)}
    others = tuple(name for name in index.initializers if name in served and name not in factors)
    sites = find_sites(model, include=include, exclude=exclude).sites
    left = dict.fromkeys(site.weight.root for site in sites)
    multiply = frozenset(use.node for site in sites for use in site.uses)
    dense = (name for name in left if is_constant_float(index, name) and _weighs_only(index, name, multiply))
    return Healable(tuple(factors), tuple(name for name in others if _serves_only(index, name)), tuple(dense))


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


def _weighs_only(index: GraphIndex, tensor: str, multiply: frozenset[int]) -> bool:
    """Return whether all that reads a weight, behind transposes and the like as well, are those nodes."""
    if tensor in index.pinned:
        return False
    readers = index.readers.get(tensor, ())
    return all(place in multiply or _carries_only(index, index.nodes[place], multiply) for place in readers)


def _carries_only(index: GraphIndex, node: NodeProto, multiply: frozenset[int]) -> bool:
    return node.op_type in TRACED and all(_weighs_only(index, name, multiply) for name in node.output)
