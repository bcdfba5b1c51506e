"""Replacing one node by two in an onnx-graphsurgeon view."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnx_graphsurgeon.logger import G_LOGGER

from rankfold.passes.graph_index import taken_names
from rankfold.passes.layout import bias_like
from rankfold.passes.site import Site, Use
from rankfold.values import FloatArray

_FREE_C_OPSET = 11  # before it a Gemm has to have a C
# What goes to the second node of a pair; a Conv's attributes all stay with the first.
_SECOND = {
    "Gemm": ("alpha", "beta"),
    "FusedMatMul": ("alpha",),
    "FusedGemm": ("alpha", "beta", "activation", "activation_alpha", "activation_beta", "activation_gamma"),
}


@dataclass(frozen=True)
class View:
    """A graph being edited.

    Attributes:
        graph: The graphsurgeon graph, edited in place.
        imported: Its nodes as imported, in the original's order.
        taken: Names of tensors and nodes that exist; grows with each new one.
        heirs: The new node (by id) that ends what stands in an old one's place, to the old one's place.
    """

    graph: gs.Graph
    imported: tuple[gs.Node, ...]
    taken: set[str]
    heirs: dict[int, int] = field(default_factory=dict)

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


@dataclass(frozen=True)
class Replacement:
    """What stands in the place of one node.

    Attributes:
        name: What the new names derive from.
        down, up: The factors, as the nodes read them.
        bias: What the bias becomes, (out,), in the output's units; None leaves the bias as it is.
    """

    name: str
    down: gs.Tensor
    up: gs.Tensor
    bias: FloatArray | None


def open_view(proto: ModelProto) -> View:
    """Return a view of a model; it knows the names that graphsurgeon leaves out too, such as unread weights'."""
    copy = ModelProto()  # graphsurgeon gives names to unnamed tensors in what it imports
    copy.CopyFrom(proto)
    with G_LOGGER.suppress():  # it prints what it finds odd; what matters comes as an exception
        graph = gs.import_onnx(copy)
    return View(graph, tuple(graph.nodes), taken_names(proto))


def widened(view: View, site: Site, constant: gs.Constant) -> gs.Tensor:
    """Return a constant in the type the site computes in, by a Cast before its first use if it is stored narrower."""
    if site.weight.stored_type == site.weight.onnx_type:
        return constant
    dtype = helper.tensor_dtype_to_np_dtype(site.weight.onnx_type)
    wide = gs.Variable(view.fresh(f"{constant.name}/wide"), dtype=dtype)
    cast = gs.Node("Cast", view.fresh(f"{constant.name}/cast"), {"to": site.weight.onnx_type}, [constant], [wide])
    view.graph.nodes.insert(_place_of(view.graph.nodes, view.imported[site.uses[0].node]), cast)
    return wide


def replace_node(view: View, site: Site, use: Use, new: Replacement) -> None:
    """Put two products in the place of one.

    The factors stand on the side the weight stood on, a Gemm's transposition of the activation and a convolution's
    attributes stay with the first node, alpha, beta and the bias go to the second, and the last new node keeps the old
    output.
    """
    old = view.imported[use.node]
    dtype = helper.tensor_dtype_to_np_dtype(site.weight.onnx_type)
    middle = gs.Variable(view.fresh(f"{new.name}/down_output"), dtype=dtype)
    first, second = two_products(view, use, new.name)
    first.inputs = _operands(use, old.inputs[1 - use.weight_operand], new.down)
    if first.op == "Gemm" and view.graph.opset < _FREE_C_OPSET:
        first.inputs.append(view.constant(f"{new.name}/zero", np.zeros(1, dtype)))
    first.outputs = [middle]
    second.inputs = [*_operands(use, middle, new.up), *old.inputs[2:]]
    stand_in(view, use, [first, second])
    if new.bias is not None:
        set_bias(view, site, use, second, new)


def stand_in(view: View, use: Use, nodes: list[gs.Node]) -> None:
    """Put nodes in the place of a use's; the last of them takes over its output."""
    old = view.imported[use.node]
    place, output = _place_of(view.graph.nodes, old), old.outputs[0]
    old.inputs.clear()
    old.outputs.clear()
    nodes[-1].outputs = [output]
    view.graph.nodes[place : place + 1] = nodes
    view.heirs[id(nodes[-1])] = use.node


def read_own_part(view: View, site: Site, part: gs.Tensor) -> None:
    """Let a site that stays dense read its part of a weight that is split by itself, so that the whole may go."""
    for use in site.uses:
        view.imported[use.node].inputs[use.weight_operand] = part


def two_products(view: View, use: Use, name: str) -> tuple[gs.Node, gs.Node]:
    """Return the nodes that multiply by `down` and by `up`, with their attributes and without operands."""
    old = view.imported[use.node]
    first = gs.Node(old.op, view.fresh(f"{name}/down"), domain=old.domain)
    second = gs.Node(old.op, view.fresh(f"{name}/up"), domain=old.domain)
    if old.op == "Conv":
        first.attrs = dict(old.attrs)
        return first, second
    turned = "transB" if use.weight_operand == 0 else "transA"
    first.attrs = {turned: old.attrs[turned]} if old.attrs.get(turned) else {}
    second.attrs = _chosen(old.attrs, _SECOND.get(old.op, ()))
    if old.op == "FusedGemm":  # without an activation function it is a Gemm
        first.op, first.domain = "Gemm", None
    return first, second


def _chosen(attributes: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: attributes[name] for name in names if name in attributes}


def set_bias(view: View, site: Site, use: Use, second: gs.Node, new: Replacement) -> None:
    """Give a use another bias: in its old place, on the node that ends the fold, or by an Add behind that."""
    name, bias = new.name, new.bias
    assert bias is not None  # the caller asked
    dtype = helper.tensor_dtype_to_np_dtype(site.weight.onnx_type)
    if use.bias is not None:
        holder = second if use.bias.node == use.node else view.imported[use.bias.node]
        values = bias_like(use, site, bias / use.bias.scale).astype(dtype)
        holder.inputs[use.bias.operand] = view.constant(f"{name}/bias", values)
        return
    constant = view.constant(f"{name}/bias", bias_like(use, site, bias).astype(dtype))
    if use.centred == "gemm":
        second.inputs = [*second.inputs[:2], constant]
        if second.op != "Conv":
            second.attrs["beta"] = 1.0
        return
    output = second.outputs[0]
    product = gs.Variable(view.fresh(f"{name}/up_output"), dtype=dtype)
    second.outputs = [product]
    added = gs.Node("Add", view.fresh(f"{name}/bias"), inputs=[product, constant], outputs=[output])
    view.graph.nodes.insert(_place_of(view.graph.nodes, second) + 1, added)


def _operands(use: Use, activation: gs.Tensor, factor: gs.Tensor) -> list[gs.Tensor]:
    return [factor, activation] if use.weight_operand == 0 else [activation, factor]


def _place_of(nodes: list[gs.Node], wanted: gs.Node) -> int:
    return next(place for place, node in enumerate(nodes) if node is wanted)
