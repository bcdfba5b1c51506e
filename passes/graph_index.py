"""Who makes and who reads each tensor of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto


@dataclass(frozen=True)
class GraphIndex:
    """Lookups over the main graph; nodes are named by their place in `graph.node`.

    Attributes:
        nodes: The nodes in file order.
        names: Their names, each different: operator and place stand in for a missing or repeated name.
        initializers: Tensors by name that nobody can override: initializers that are not graph inputs.
        overridable: Initializers that are graph inputs too, so that a caller may replace them.
        producer: Tensor name to the node that makes it.
        readers: Tensor name to the nodes that read it, once per reading operand.
        pinned: Names that must go on existing: graph outputs and whatever nested graphs read.
        ranks: Number of axes of each tensor, where shape inference tells.
    """

    nodes: tuple[NodeProto, ...]
    names: tuple[str, ...]
    initializers: dict[str, TensorProto]
    overridable: frozenset[str]
    producer: dict[str, int]
    readers: dict[str, tuple[int, ...]]
    pinned: frozenset[str]
    ranks: dict[str, int]

    def only_reader(self, tensor: str) -> int | None:
        """Return the one node that reads a tensor nobody else needs, or None."""
        found = self.readers.get(tensor, ())
        return found[0] if len(found) == 1 and tensor not in self.pinned else None


def index_graph(proto: ModelProto) -> GraphIndex:
    """Return the lookups of a model's main graph."""
    graph = proto.graph
    inputs = {value.name for value in graph.input}
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(graph.node):
        for name in filter(None, node.input):
            readers.setdefault(name, []).append(place)
    return GraphIndex(
        nodes=tuple(graph.node),
        names=_unique_names(graph.node),
        initializers={tensor.name: tensor for tensor in graph.initializer if tensor.name not in inputs},
        overridable=frozenset(tensor.name for tensor in graph.initializer if tensor.name in inputs),
        producer={name: place for place, node in enumerate(graph.node) for name in node.output if name},
        readers={name: tuple(places) for name, places in readers.items()},
        pinned=frozenset([value.name for value in graph.output]) | frozenset(nested_reads(graph.node)),
        ranks=_ranks(proto),
    )


def onnx_opset(proto: ModelProto) -> int:
    """Return the version of ONNX's own operators that a model imports, 1 where it imports none."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def nested_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the bodies of a control-flow node, not those inside them."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def copy_without(proto: ModelProto, *graph_fields: str) -> ModelProto:
    """Return a copy of a model that leaves some fields of its graph empty, never having copied them."""
    copy = ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _assign(copy, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name not in graph_fields:
            _assign(copy.graph, field.name, value)
    return copy


def nested_reads(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield the names that control-flow bodies read or give back, at any depth."""
    for node in nodes:
        for body in nested_graphs(node):
            yield from (name for inner in body.node for name in inner.input if name)
            yield from (value.name for value in body.output)
            yield from nested_reads(body.node)


def taken_names(proto: ModelProto) -> set[str]:
    """Return every name that nodes, tensors, inputs and outputs have, in the main graph and in nested ones."""
    return set(_graph_names(proto.graph))


def _graph_names(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer))
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for body in nested_graphs(node):
            yield from _graph_names(body)


def _unique_names(nodes: Iterable[NodeProto]) -> tuple[str, ...]:
    nodes = list(nodes)
    given = {node.name for node in nodes}
    names: dict[str, None] = {}
    for place, node in enumerate(nodes):
        name = node.name
        if not name or name in names:
            name = f"{node.op_type}_{place}"
        while name in names or (name != node.name and name in given):
            name += "_"
        names[name] = None
    return tuple(names)


def _assign(target: ModelProto | GraphProto, name: str, value: object) -> None:
    if isinstance(value, (str, bytes, int, float)):
        setattr(target, name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        getattr(target, name).extend(value)


def _ranks(proto: ModelProto) -> dict[str, int]:
    try:
        graph = onnx.shape_inference.infer_shapes(proto).graph
    except onnx.shape_inference.InferenceError:
        graph = proto.graph
    known = [*graph.input, *graph.value_info, *graph.output]
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in known
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
    }
