"""Finding the nodes that spell out one operator of torch, and putting that operator in their place.

Exporters write layer normalization, GELU and attention as up to a dozen nodes. Each of these reads and writes a whole
tensor and keeps it for the gradient; one operator does neither. What is computed stays the same but for rounding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
from onnx import NodeProto, helper
from torch import Tensor
from torch.nn import functional

from rankfold.training.node import Compute, plain
from rankfold.training.reading import BoundNode, Graph

_CLOSE = 1e-4  # of a constant to the number it stands for, relative: exporters round them
_COMPUTED = plain(lambda *inputs: inputs)  # stands for any operator whose inputs are on the device


@dataclass(frozen=True)
class _Found:
    """Nodes that one operator takes the place of, the last of them first, what it reads, and what computes it."""

    nodes: tuple[BoundNode, ...]
    inputs: tuple[str, ...]
    title: str
    compute: Compute


def fused(graph: Graph, *, kept: Collection[str], trainable: Collection[str]) -> Graph:
    """Return a graph with fewer nodes.

    Args:
        graph: The graph.
        kept: Names of tensors that have to stay, beside the outputs.
        trainable: Names of constants that change: none of them is a number to be reckoned with.
    """
    view = _View(graph, frozenset({*kept, *graph.outputs}), frozenset(trainable))
    gone: set[int] = set()
    nodes: list[BoundNode] = []
    for node in reversed(graph.nodes):  # each after what reads it, so that the last node of a group comes first
        if id(node) in gone:
            continue
        found = next((one for find in _FINDERS if (one := find(view, node)) is not None), None)
        if found is None:
            nodes.append(node)
            continue
        gone.update(id(part) for part in found.nodes)
        last = found.nodes[0].proto
        proto = helper.make_node(found.title, found.inputs, [last.output[0]], name=last.name)
        nodes.append(BoundNode(proto, _COMPUTED, found.compute))
    return replace(graph, nodes=tuple(nodes[::-1]))


class _View:
    """The graph seen from its tensors: what makes each, and how often it is read."""

    def __init__(self, graph: Graph, kept: frozenset[str], trainable: frozenset[str]) -> None:
        self._makers = {node.proto.output[0]: node for node in graph.nodes if len(node.proto.output) == 1}
        self._reads = Counter(name for node in graph.nodes for name in node.proto.input)
        self._constants, self._kept, self._trainable = graph.constants, kept, trainable

    def made(self, name: str, title: str, *, reads: int = 1) -> BoundNode | None:
        """Return the node of an operator that makes a tensor which is read so often, and needed nowhere else."""
        node = self._makers.get(name)
        if node is None or name in self._kept or self._reads[name] != reads:
            return None
        return node if _title(node) == title else None

    def number(self, name: str) -> float | None:
        """Return a constant of one number that is not trained; one of several axes may give an output more of them."""
        value = self._constants.get(name)
        if value is None or value.numel() != 1 or value.ndim > 1 or name in self._trainable:
            return None
        return float(value)

    def has(self, name: str, number: float) -> bool:
        """Tell whether a tensor is that number."""
        found = self.number(name)
        return found is not None and math.isclose(found, number, rel_tol=_CLOSE)

    def is_row(self, name: str) -> bool:
        """Tell whether a tensor is a constant (features,)."""
        value = self._constants.get(name)
        return value is not None and value.ndim == 1

    def means_last_axis(self, node: BoundNode) -> bool:
        """Tell whether a ReduceMean goes over the last axis alone and keeps it."""
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.proto.attribute}
        axes = given.get("axes")
        if axes is None and len(node.proto.input) > 1 and node.proto.input[1] not in self._trainable:
            value = self._constants.get(node.proto.input[1])
            axes = None if value is None else value.flatten().tolist()
        return axes is not None and list(axes) == [-1] and given.get("keepdims", 1) == 1


def _layer_normalization(view: _View, node: BoundNode) -> _Found | None:
    """Find (x - mean) / √(mean square + ε) · scale + shift over the last axis."""
    for product, shift in _either(node.proto, "Add"):
        scaling = view.made(product, "Mul") if view.is_row(shift) else None
        for quotient, scale in _either(scaling.proto, "Mul") if scaling else ():
            found = _standardised(view, quotient) if view.is_row(scale) else None
            if scaling and found:
                nodes, x, epsilon = found
                compute = _normalised(epsilon)
                return _Found((node, scaling, *nodes), (x, scale, shift), "LayerNormalization", compute)
    return None


def _standardised(view: _View, quotient: str) -> tuple[tuple[BoundNode, ...], str, float] | None:
    """Return the nodes of (x - mean) / √(mean square + ε), x and ε."""
    if not (division := view.made(quotient, "Div")):
        return None
    centred = division.proto.input[0]
    if not (root := view.made(division.proto.input[1], "Sqrt")):
        return None
    if not (shifted := view.made(root.proto.input[0], "Add")):
        return None
    for variance, number in _either(shifted.proto, "Add"):
        epsilon, mean = view.number(number), view.made(variance, "ReduceMean")
        if epsilon is None or not mean or not view.means_last_axis(mean):
            continue
        middle = _centred_squares(view, mean.proto.input[0], centred)
        if middle:
            return (division, root, shifted, mean, *middle), middle[-1].proto.input[0], epsilon
    return None


def _centred_squares(view: _View, squares: str, centred: str) -> tuple[BoundNode, ...] | None:
    """Return the nodes that square `centred` and that take the mean from x, the mean itself last."""
    square = view.made(squares, "Pow") or view.made(squares, "Mul")
    if not square or square.proto.input[0] != centred:
        return None
    by_itself = _title(square) == "Mul"
    if square.proto.input[1] != centred if by_itself else not view.has(square.proto.input[1], 2):
        return None
    difference = view.made(centred, "Sub", reads=3 if by_itself else 2)
    mean = view.made(difference.proto.input[1], "ReduceMean") if difference else None
    if not difference or not mean or not view.means_last_axis(mean):
        return None
    return (square, difference, mean) if mean.proto.input[0] == difference.proto.input[0] else None


def _normalised(epsilon: float) -> Compute:
    def compute(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if x.shape[-1:] == scale.shape == shift.shape:
            return functional.layer_norm(x, scale.shape, scale, shift, epsilon)
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + epsilon) * scale + shift

    return compute


def _gelu(view: _View, node: BoundNode) -> _Found | None:
    """Find x · ½ · (1 + erf(x / √2)), its three factors in any order."""
    for product, third in _either(node.proto, "Mul"):
        inner = view.made(product, "Mul")
        factors = (*inner.proto.input, third) if inner else ()
        halves = [name for name in factors if view.has(name, 0.5)]
        for name in factors:
            others = [other for other in factors if other != name and other not in halves]
            found = _error_function(view, name) if len(halves) == 1 and len(others) == 1 else None
            if inner and found and found[1] == others[0]:
                return _Found((node, inner, *found[0]), (others[0],), "Gelu", functional.gelu)
    return None


def _error_function(view: _View, name: str) -> tuple[tuple[BoundNode, ...], str] | None:
    """Return the nodes of 1 + erf(x / √2), and x."""
    if not (added := view.made(name, "Add")):
        return None
    for inside, one in _either(added.proto, "Add"):
        erf = view.made(inside, "Erf") if view.has(one, 1) else None
        scaled = _over_root_two(view, erf.proto.input[0]) if erf else None
        if erf and scaled:
            return (added, erf, scaled[0]), scaled[1]
    return None


def _over_root_two(view: _View, name: str) -> tuple[BoundNode, str] | None:
    """Return the node of x / √2, and x."""
    if (division := view.made(name, "Div")) and view.has(division.proto.input[1], math.sqrt(2)):
        return division, division.proto.input[0]
    product = view.made(name, "Mul")
    for x, number in _either(product.proto, "Mul") if product else ():
        if product and view.has(number, math.sqrt(0.5)):
            return product, x
    return None


def _attention(view: _View, node: BoundNode) -> _Found | None:
    """Find softmax(scale · queries · keys + mask) · values over the last axis; scale and mask may be left out."""
    if _title(node) != "MatMul" or not (shares := view.made(node.proto.input[0], "Softmax")):
        return None
    if any(attribute.name == "axis" and attribute.i != -1 for attribute in shares.proto.attribute):
        return None
    nodes, scores, mask, scale = [node, shares], shares.proto.input[0], "", 1.0
    if masked := view.made(scores, "Add"):
        scores, mask = max(_either(masked.proto, "Add"), key=lambda pair: _is_score(view, pair[0]))
        nodes.append(masked)
    for title in ("Mul", "Div"):
        scaled = view.made(scores, title)
        number = view.number(scaled.proto.input[1]) if scaled else None
        if scaled and number:
            nodes.append(scaled)
            scores, scale = scaled.proto.input[0], scale * number if title == "Mul" else scale / number
    if not (products := view.made(scores, "MatMul")):
        return None
    inputs = (*products.proto.input, node.proto.input[1], *([mask] if mask else []))
    return _Found((*nodes, products), inputs, "Attention", _mixed(scale))


def _is_score(view: _View, name: str) -> bool:
    return any(view.made(name, title) is not None for title in ("MatMul", "Mul", "Div"))


def _mixed(scale: float) -> Compute:
    def compute(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        alike = queries.ndim == 4 and queries.shape[:2] == keys.shape[:2] == values.shape[:2]
        shape = (*queries.shape[:-1], keys.shape[-1])  # the scores'; a mask may make them more
        if alike and (mask is None or (mask.ndim == 4 and torch.broadcast_shapes(mask.shape, shape) == shape)):
            return functional.scaled_dot_product_attention(queries, keys.mT, values, mask, scale=scale)
        scores = torch.matmul(queries, keys) * scale
        return torch.matmul(torch.softmax(scores if mask is None else scores + mask, -1), values)

    return compute


def _either(node: NodeProto, title: str) -> Iterator[tuple[str, str]]:
    """Yield the two inputs of a node of that operator in either order."""
    if node.op_type == title and node.domain in ("", "ai.onnx"):
        first, second = node.input
        yield first, second
        yield second, first


def _title(node: BoundNode) -> str:
    return node.proto.op_type if node.proto.domain in ("", "ai.onnx") else ""


_FINDERS: tuple[Callable[[_View, BoundNode], _Found | None], ...] = (_layer_normalization, _gelu, _attention)
