"""Replacing one node by the pivoted form of its fold in an onnx-graphsurgeon view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from rankfold.passes.pivots import Pivots
from rankfold.passes.rewrite import Replacement, View, set_bias, stand_in, two_products
from rankfold.passes.site import Site, Use
from rankfold.values import FloatArray

_SIZES_AS_INPUT = 13  # from this opset on a Split reads its sizes; before, they are an attribute


@dataclass(frozen=True)
class PivotedReplacement:
    """What stands in the place of one node.

    Attributes:
        plain: The factors as the nodes read them, and what the bias becomes as a whole.
        pivots: Which features carry the others.
        marks: What tells the features apart in the graph, as `mark_constants` gives it.
        parts: What is added to the pivots and to the others where the product itself adds a bias and its output is
            parted; None where nothing is, or where that is left to `plain`.
    """

    plain: Replacement
    pivots: Pivots
    marks: tuple[gs.Tensor, ...]
    parts: tuple[FloatArray, FloatArray] | None


def mark_constants(view: View, name: str, pivots: Pivots) -> tuple[gs.Constant, ...]:
    """Return the sizes of a Split, or the indices of Gathers where pivots lie among the others; all int64.

    They are read by every use of a weight. They take room in the file, and are no parameters of the weight.
    """
    if pivots.place == "among":
        if pivots.side == "output":
            return (view.constant(f"{name}/order", pivots.order),)
        return view.constant(f"{name}/pivots", pivots.chosen), view.constant(f"{name}/others", pivots.others)
    if pivots.side == "output" or view.graph.opset < _SIZES_AS_INPUT:
        return ()
    return (view.constant(f"{name}/sizes", np.array(_sizes(pivots), np.int64)),)


def replace_by_pivots(view: View, site: Site, use: Use, new: PivotedReplacement) -> None:
    """Put the pivoted form in the place of one node.

    With pivots of the output, both products give a part of the features, which a Concat joins. With pivots of the
    input, a Split parts the features, and the others' product is added to the pivots; what follows is the second
    product of a pair.
    """
    made = _parted_output(view, site, use, new) if new.pivots.side == "output" else _parted_input(view, site, use, new)
    stand_in(view, use, made)
    if new.plain.bias is not None and new.parts is None:
        set_bias(view, site, use, made[-1], new.plain)


def _parted_output(view: View, site: Site, use: Use, new: PivotedReplacement) -> list[gs.Node]:
    name, old = new.plain.name, view.imported[use.node]
    first, second = two_products(view, use, name)
    if "alpha" in second.attrs:
        first.attrs["alpha"] = second.attrs.pop("alpha")
    pivots, others = _variable(view, site, f"{name}/down_output"), _variable(view, site, f"{name}/up_output")
    first.inputs, first.outputs = [old.inputs[0], new.plain.down], [pivots]
    second.inputs, second.outputs = [pivots, new.plain.up], [others]
    if new.parts is not None:
        _add_parts(view, site, use, (first, second), new)
    axis = use.feature_axis
    last = new.pivots.place == "last"
    joined = _variable(view, site, f"{name}/concat_output")
    made = [first, second, _node(view, "Concat", f"{name}/concat", [others, pivots] if last else [pivots, others])]
    made[-1].attrs["axis"] = axis
    if new.pivots.place == "among":
        made[-1].outputs = [joined]
        made.append(_node(view, "Gather", f"{name}/gather", [joined, *new.marks]))
        made[-1].attrs["axis"] = axis
    return made


def _add_parts(view: View, site: Site, use: Use, products: tuple[gs.Node, gs.Node], new: PivotedReplacement) -> None:
    """Give both products their parts of the bias, in a Gemm as its C under the old beta."""
    assert new.parts is not None  # the caller asked
    dtype = helper.tensor_dtype_to_np_dtype(site.weight.onnx_type)
    for node, part, end in zip(products, new.parts, ("down", "up"), strict=True):
        if use.bias is None and node.op == "Gemm":
            node.attrs["beta"] = 1.0
        elif "beta" in products[1].attrs:
            node.attrs["beta"] = products[1].attrs["beta"]
        scale = 1.0 if use.bias is None else use.bias.scale
        node.inputs.append(view.constant(f"{new.plain.name}/{end}_bias", (part / scale).astype(dtype)))


def _parted_input(view: View, site: Site, use: Use, new: PivotedReplacement) -> list[gs.Node]:
    name, old = new.plain.name, view.imported[use.node]
    first, second = two_products(view, use, name)
    pivots, others = _variable(view, site, f"{name}/pivots_output"), _variable(view, site, f"{name}/others_output")
    made = _parting_nodes(view, new, old.inputs[0], (pivots, others))
    middle = _variable(view, site, f"{name}/down_output")
    made.append(first)
    if first.op == "Gemm":  # its C is the addend
        first.inputs, first.outputs = [others, new.plain.down, pivots], [middle]
    else:
        product = _variable(view, site, f"{name}/product_output")
        first.inputs, first.outputs = [others, new.plain.down], [product]
        made.append(_node(view, "Add", f"{name}/add", [pivots, product]))
        made[-1].outputs = [middle]
    second.inputs = [middle, new.plain.up, *old.inputs[2:]]
    return [*made, second]


def _parting_nodes(
    view: View, new: PivotedReplacement, activation: gs.Tensor, parts: tuple[gs.Variable, gs.Variable]
) -> list[gs.Node]:
    name = new.plain.name
    if new.pivots.place == "among":
        gathers = [_node(view, "Gather", f"{name}/gather", [activation, mark]) for mark in new.marks]
        for gather, part in zip(gathers, parts, strict=True):
            gather.attrs["axis"], gather.outputs = -1, [part]
        return gathers
    split = _node(view, "Split", f"{name}/split", [activation, *new.marks])
    split.attrs["axis"] = -1
    if not new.marks:
        split.attrs["split"] = _sizes(new.pivots)
    split.outputs = list(parts) if new.pivots.place == "first" else list(reversed(parts))
    return [split]


def _sizes(pivots: Pivots) -> list[int]:
    """Return the extents of a Split in the order of the features."""
    sizes = [len(pivots.chosen), len(pivots.others)]
    return sizes if pivots.place == "first" else sizes[::-1]


def _variable(view: View, site: Site, name: str) -> gs.Variable:
    return gs.Variable(view.fresh(name), dtype=helper.tensor_dtype_to_np_dtype(site.weight.onnx_type))


def _node(view: View, op: str, name: str, inputs: list[gs.Tensor]) -> gs.Node:
    return gs.Node(op, view.fresh(name), inputs=inputs)
