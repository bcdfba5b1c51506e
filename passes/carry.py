"""Carrying an edit made in onnx-graphsurgeon back into the original model.

A round trip through graphsurgeon loses metadata, doc strings, quantisation annotations and more. So the edit is made
on a view, and from it come only the new nodes and the new constants: everything else is the original's own bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from onnx import ModelProto, NodeProto, TensorProto
from onnx_graphsurgeon.logger import G_LOGGER

from rankfold.passes.graph_index import copy_without, nested_reads


@dataclass(frozen=True)
class Rewritten:
    """A model in two parts, so that its weights need not be held together.

    Attributes:
        skeleton: Everything but the initializers.
        initializers: The original's own that are still needed, then the new ones. Iterating may compute them one
            after the other; each is to be let go before the next.
    """

    skeleton: ModelProto
    initializers: Iterable[TensorProto]


def carry_back(
    original: ModelProto, graph: gs.Graph, imported: Sequence[gs.Node], heirs: Mapping[int, int]
) -> Rewritten:
    """Return the original with the edit of `graph` applied.

    Args:
        original: The model the view was made of; it is not changed.
        graph: The edited view: nodes put in or taken out, operands of imported nodes exchanged.
        imported: The view's nodes as they were imported, in the original's order.
        heirs: New nodes, by id, that take over the doc string and metadata of the original's node at a place.
    """
    places = {id(node): place for place, node in enumerate(imported)}
    with G_LOGGER.suppress():  # it prints what it finds odd; what matters comes as an exception
        exported = gs.export_onnx(graph, do_type_check=False).graph
    nodes = [
        _with_operands(original.graph.node[places[id(node)]], node)
        if id(node) in places
        else _with_notes(new, original, heirs.get(id(node)))
        for node, new in zip(graph.nodes, exported.node, strict=True)
    ]
    nodes = _without_orphans(original, nodes)
    result = copy_without(original, "node", "initializer", "value_info")
    result.graph.node.extend(nodes)
    needed, before = _read(original, nodes), _read(original, original.graph.node)
    known = {tensor.name for tensor in original.graph.initializer}
    kept = [t for t in original.graph.initializer if t.name in needed or t.name not in before]
    new = [tensor for tensor in exported.initializer if tensor.name not in known]
    gone = _outputs(original.graph.node) - _outputs(nodes)
    gone |= known - {tensor.name for tensor in kept}  # torch's exporter notes the weights' shapes too
    result.graph.value_info.extend(value for value in original.graph.value_info if value.name not in gone)
    return Rewritten(result, (*kept, *new))


def _outputs(nodes: Iterable[NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output}


def _with_operands(original: NodeProto, node: gs.Node) -> NodeProto:
    names = [tensor.name for tensor in node.inputs]
    if names == list(original.input):
        return original
    changed = NodeProto()
    changed.CopyFrom(original)
    del changed.input[:]
    changed.input.extend(names)
    return changed


def _with_notes(node: NodeProto, original: ModelProto, place: int | None) -> NodeProto:
    if place is not None:
        if original.graph.node[place].doc_string:
            node.doc_string = original.graph.node[place].doc_string
        node.metadata_props.extend(original.graph.node[place].metadata_props)
    return node


def _without_orphans(original: ModelProto, nodes: list[NodeProto]) -> list[NodeProto]:
    """Drop the nodes whose results were read before the edit and are not any more, and what fed only them."""
    before = _read(original, original.graph.node)
    while True:
        needed = _read(original, nodes)
        kept = [node for node in nodes if not _orphaned(node, before, needed)]
        if len(kept) == len(nodes):
            return nodes
        nodes = kept


def _orphaned(node: NodeProto, before: set[str], needed: set[str]) -> bool:
    return not needed.intersection(node.output) and bool(before.intersection(node.output))


def _read(original: ModelProto, nodes: Iterable[NodeProto]) -> set[str]:
    nodes = list(nodes)
    names = {name for node in nodes for name in node.input if name}
    return names | {value.name for value in original.graph.output} | set(nested_reads(nodes))
