"""Where the second factor of each fold stands in the graph, and which tensor of the original it works toward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from rankfold.passes.constants import attribute
from rankfold.passes.graph_index import GraphIndex, index_graph
from rankfold.passes.healable import is_vector
from rankfold.passes.metadata import FoldedPair, read_pairs
from rankfold.passes.model_file import Model
from rankfold.values import Skipped

_PLAIN = frozenset({"MatMul", "Gemm", "Conv"})
_PARTING = frozenset({"Split", "Gather"})  # what it puts before
_MATRIX_AXES = 2


@dataclass(frozen=True)
class RefitUse:
    """One node that multiplies by `up`.

    Attributes:
        inner: The tensor it multiplies, as the compressed model makes it.
        axis: Where the features of `inner` and of `target` lie.
        target: The tensor that the product ends in, in both models: behind its bias where it has one.
        features: Which features of the target the product makes.
        alpha: What the product is multiplied by.
        bias: Initializer that is added on the way and serves nothing else; None where there is none.
        beta: What that is multiplied by.
        bias_features: Which features of the target the bias adds to.
    """

    inner: str
    axis: int
    target: str
    features: NDArray[np.int64]
    alpha: float
    bias: str | None
    beta: float
    bias_features: NDArray[np.int64]


@dataclass(frozen=True)
class RefitSite:
    """A fold whose `up` can be fitted anew.

    Attributes:
        name: The node that was folded.
        up: Its second factor: (rank, features), transposed where `turned`, a kernel of extent 1 in a convolution.
        rank: The inner extent.
        turned: Whether it is stored as (features, rank, ...).
        reads: The tensor that the fold reads; sites that read the same are fitted together.
        place: Of its first node in the graph.
        uses: The nodes that multiply by it.
    """

    name: str
    up: str
    rank: int
    turned: bool
    reads: str
    place: int
    uses: tuple[RefitUse, ...]


def find_refit_sites(base: Model, candidate: Model) -> tuple[tuple[RefitSite, ...], tuple[Skipped, ...]]:
    """Return the folds of a candidate that can be fitted anew, in graph order, and the others with the reason."""
    original = frozenset(name for node in base.proto.graph.node for name in node.output)
    graphs = _Graphs(candidate, index_graph(candidate.proto), original)
    sites, skipped = [], []
    for pair in read_pairs(candidate):
        found = _site(graphs, pair)
        if isinstance(found, str):
            skipped.append(Skipped(pair.site, pair.op_type, found))
        else:
            sites.append(found)
    return tuple(sorted(sites, key=lambda site: site.place)), tuple(skipped)


@dataclass(frozen=True)
class _Graphs:
    """The candidate, and the tensors that the original's nodes make."""

    candidate: Model
    index: GraphIndex
    original: frozenset[str]


def _site(graphs: _Graphs, pair: FoldedPair) -> RefitSite | str:
    """Return a pair as a site, or why it cannot be one."""
    index = graphs.index
    if pair.up not in index.initializers or pair.down not in index.initializers:
        return "its factors may be replaced by the caller"
    dims = list(index.initializers[pair.up].dims)
    nodes = list(_products(index, pair.up))
    kinds = {node.op_type for _, node, _ in nodes}
    if len(kinds) != 1 or not kinds <= _PLAIN:
        return f"its second factor is read by {', '.join(sorted(kinds)) or 'nothing'}; MatMul, Gemm or Conv is fitted"
    if kinds != {"Conv"} and len(dims) != _MATRIX_AXES:
        return "it is a stack of matrices"
    first = next(iter(_products(index, pair.down)), None)
    turned = kinds == {"Conv"} or nodes[0][2] == 0
    if first is None or any((operand == 0) != (nodes[0][2] == 0) for _, _, operand in nodes):
        return "its factors are not read as rankfold writes them"
    uses = []
    for _, node, operand in nodes:
        found = _use(graphs, node, operand, dims[0] if turned else dims[1])
        if isinstance(found, str):
            return found
        uses.append(found)
    reads = _read_by(index, first[1], first[2])
    return RefitSite(pair.site, pair.up, pair.rank, turned, reads, nodes[0][0], tuple(uses))


def _products(index: GraphIndex, weight: str) -> Iterator[tuple[int, NodeProto, int]]:
    """Yield the nodes that read a factor, through a Cast or not, with their place and the operand it is."""
    for place in index.readers.get(weight, ()):
        node = index.nodes[place]
        if node.op_type == "Cast":
            yield from _products(index, node.output[0])
        else:
            yield place, node, list(node.input).index(weight)


def _read_by(index: GraphIndex, node: NodeProto, operand: int) -> str:
    """Return the tensor that a fold reads: what its first product multiplies, or what that is a part of."""
    name = node.input[1 - operand]
    place = index.producer.get(name)
    if place is not None and index.nodes[place].op_type in _PARTING and "/" in name:
        name = index.nodes[place].input[0]
    return str(name)


def _use(graphs: _Graphs, node: NodeProto, operand: int, width: int) -> RefitUse | str:
    index, original = graphs.index, graphs.original
    if any(attribute(node, name, 0) for name in ("transA", "transB")):
        return "its second product transposes an operand"
    axis = 1 if node.op_type == "Conv" else -2 if operand == 0 else -1
    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    features, target = np.arange(width), node.output[0]
    bias, scale, bias_features = None, 1.0, features
    if len(node.input) > _MATRIX_AXES and is_vector(index, node.input[2]):
        bias, scale = node.input[2], beta
    while target not in original and (place := index.only_reader(target)) is not None:
        moved = _moved(graphs, index.nodes[place], target, features)
        if moved is None:
            break
        features, target = moved, index.nodes[place].output[0]
        bias_features = features
    place = index.only_reader(target)
    if bias is None and place is not None and index.nodes[place].op_type == "Add":
        operands = [name for name in index.nodes[place].input if name != target]
        if len(operands) == 1 and is_vector(index, operands[0]) and index.nodes[place].output[0] in original:
            bias, target = operands[0], index.nodes[place].output[0]
            bias_features = np.arange(max(index.initializers[bias].dims))
    if target not in original:
        return f"the original has no tensor {target!r} that it could be fitted to"
    if bias is not None and len(index.readers[bias]) > 1:
        bias = None
    return RefitUse(node.input[1 - operand], axis, target, features, alpha, bias, scale, bias_features)


def _moved(graphs: _Graphs, node: NodeProto, tensor: str, features: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return where features come to lie behind a Concat or a Gather of a pivoted fold, None where it is another one."""
    if node.op_type == "Gather":
        order = graphs.index.initializers.get(node.input[1])
        return None if order is None else np.argsort(graphs.candidate.tensor(order))[features]
    if node.op_type != "Concat" or len(node.input) != _MATRIX_AXES:
        return None
    return features if node.input[0] == tensor else features + _width(graphs.index, node.input[0])


def _width(index: GraphIndex, tensor: str) -> int:
    """Return the features of a product's output, from its factor."""
    node = index.nodes[index.producer[tensor]]
    for operand in node.input[:_MATRIX_AXES]:
        place = index.producer.get(operand)
        root = index.nodes[place].input[0] if place is not None and index.nodes[place].op_type == "Cast" else operand
        if root in index.initializers:
            dims = index.initializers[root].dims
            return int(dims[0] if node.op_type == "Conv" else dims[-1])
    return 0
