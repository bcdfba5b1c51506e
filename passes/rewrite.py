"""Replacing one node by two in an onnx-graphsurgeon view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import DTypeLike, NDArray
from onnx import ModelProto

from rankfold.passes.graph_index import taken_names
from rankfold.passes.site import Use
from rankfold.values import FloatArray

_FREE_C_OPSET = 11  # before it a Gemm has to have a C


@dataclass(frozen=True)
class View:
    """A graph being edited.

    Attributes:
        graph: The graphsurgeon graph, edited in place.
        imported: Its nodes as imported, in the original's order.
        taken: Names of tensors and nodes that exist; grows with each new one.
    """

    graph: gs.Graph
    imported: tuple[gs.Node, ...]
    taken: set[str]

    def fresh(self, wanted: str) -> str:
        """Return a name nothing else has, the wanted one if it is free."""
        name, number = wanted, 1
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name

    def constant(self, wanted: str, values: NDArray[np.generic]) -> gs.Constant:
        """Return a new constant."""
        return gs.Constant(self.fresh(wanted), np.ascontiguousarray(values))


def open_view(proto: ModelProto) -> View:
    """Return a view of a model; it knows the names that graphsurgeon leaves out too, such as unread weights'."""
    graph = gs.import_onnx(proto)
    return View(graph, tuple(graph.nodes), taken_names(proto))


def replace_node(
    view: View, use: Use, name: str, factors: tuple[gs.Constant, gs.Constant], bias: FloatArray | None
) -> None:
    """Put two products in the place of one.

    The factors stand on the side the weight stood on, a Gemm's transposition of the activation stays with the first
    product, its alpha, beta and C go to the second, and the last new node keeps the old output.

    Args:
        view: The graph.
        use: The node to replace.
        name: What the new names derive from.
        factors: The constants `down` and `up`, already turned where the weight stands on the left.
        bias: What the bias becomes, (out,), in the output's units; None leaves the bias as it is.
    """
    old = view.imported[use.node]
    output = old.outputs[0]
    dtype = factors[0].values.dtype
    middle = gs.Variable(view.fresh(f"{name}/down_output"), dtype=dtype)
    first = gs.Node(old.op, view.fresh(f"{name}/down"), _first_attributes(old, use), domain=old.domain)
    first.inputs = _operands(use, old.inputs[1 - use.weight_operand], factors[0])
    if old.op == "Gemm" and view.graph.opset < _FREE_C_OPSET:
        first.inputs.append(view.constant(f"{name}/zero", np.zeros(1, dtype)))
    first.outputs = [middle]
    second = gs.Node(old.op, view.fresh(f"{name}/up"), _second_attributes(old), domain=old.domain)
    second.inputs = [*_operands(use, middle, factors[1]), *old.inputs[2:]]
    place = _place_of(view.graph.nodes, old)
    old.inputs.clear()
    old.outputs.clear()
    second.outputs = [output]
    view.graph.nodes[place : place + 1] = [first, second]
    if bias is not None:
        _set_bias(view, use, second, name, bias)


def _set_bias(view: View, use: Use, second: gs.Node, name: str, bias: FloatArray) -> None:
    dtype = second.inputs[use.weight_operand].values.dtype
    if use.bias is not None:
        holder = second if use.bias.node == use.node else view.imported[use.bias.node]
        values = _shaped(bias / use.bias.scale, use.bias.trace.shape, use, dtype)
        holder.inputs[use.bias.operand] = view.constant(f"{name}/bias", values)
        return
    constant = view.constant(f"{name}/bias", _shaped(bias, (), use, dtype))
    if use.centred == "gemm":
        second.inputs = [*second.inputs[:2], constant]
        second.attrs["beta"] = 1.0
        return
    output = second.outputs[0]
    product = gs.Variable(view.fresh(f"{name}/up_output"), dtype=dtype)
    second.outputs = [product]
    added = gs.Node("Add", view.fresh(f"{name}/bias"), inputs=[product, constant], outputs=[output])
    view.graph.nodes.insert(_place_of(view.graph.nodes, second) + 1, added)


def _operands(use: Use, activation: gs.Tensor, factor: gs.Constant) -> list[gs.Tensor]:
    return [factor, activation] if use.weight_operand == 0 else [activation, factor]


def _first_attributes(old: gs.Node, use: Use) -> dict[str, int]:
    """Return what the first Gemm needs to read the activation as the old one did."""
    name = "transB" if use.weight_operand == 0 else "transA"
    return {name: old.attrs[name]} if old.attrs.get(name) else {}


def _second_attributes(old: gs.Node) -> dict[str, float]:
    return {name: old.attrs[name] for name in ("alpha", "beta") if name in old.attrs}


def _shaped(bias: FloatArray, like: tuple[int, ...], use: Use, dtype: DTypeLike) -> NDArray[np.generic]:
    """Return the bias with as many axes as the constant it replaces, its values along the feature axis."""
    shape = [1] * max(len(like), -use.feature_axis)
    shape[use.feature_axis] = len(bias)
    return bias.reshape(shape).astype(dtype)


def _place_of(nodes: list[gs.Node], wanted: gs.Node) -> int:
    return next(place for place, node in enumerate(nodes) if node is wanted)
