"""What a model's graphs are refused for before any library gets to see them: each library misses some of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from rankfold.errors import ModelError
from rankfold.passes.graph_index import nested_graphs, taken_names

TAP_PREFIX = "rankfold_tap/"
"""Names of what is added to a model while it is measured begin with this."""
OLDEST_MEASURED_OPSET = 7
"""Operators broadcast by their shapes alone from here on."""
_SHOWN = 5  # nodes of a cycle in a message


def check_text(where: Path, proto: ModelProto) -> None:
    """Check that all text in a model is text; the parser lets any bytes through.

    Raises:
        ModelError: Some is not.
    """
    found = next(_bad_text(proto), None)
    if found is not None:
        raise ModelError(f"{where}: a name or text in it is not UTF-8: {found!r}; export the model again")


def check_opsets(where: Path, proto: ModelProto) -> None:
    """Check that each domain is imported once, and none in a version that is not known yet.

    Raises:
        ModelError: One is not.
    """
    versions = [(_domain(entry.domain), entry.version) for entry in proto.opset_import]
    for domain, count in Counter(domain for domain, _ in versions).items():
        if count > 1:
            raise ModelError(f"{where}: imports the operators of domain {domain!r} {count} times; export it again")
    version = dict(versions).get("ai.onnx")
    newest = onnx.defs.onnx_opset_version()
    if version is not None and not 1 <= version <= newest:
        raise ModelError(
            f"{where}: uses opset {version}, and onnx {onnx.__version__} knows 1 to {newest}; export it for one of"
            " them, or install a newer onnx"
        )


def check_graphs(where: Path, proto: ModelProto) -> None:
    """Check that names are unique, and that nodes read only what stands before them.

    Raises:
        ModelError: One of these is not so.
    """
    _check_graph(where, proto.graph, frozenset())
    _check_calls(where, proto)


def check_measurable(where: Path, proto: ModelProto) -> None:
    """Check that what measures a model can be added to it.

    Raises:
        ModelError: Its opset is too old, or it holds names that are given to what is added.
    """
    version = max((e.version for e in proto.opset_import if _domain(e.domain) == "ai.onnx"), default=0)
    if version < OLDEST_MEASURED_OPSET:
        raise ModelError(
            f"{where}: uses opset {version}, and what rankfold adds to measure a model needs {OLDEST_MEASURED_OPSET} or"
            " newer; export it for a newer one, or try onnx.version_converter.convert_version"
        )
    taken = sorted(name for name in taken_names(proto) if name.startswith(TAP_PREFIX))
    if taken:
        raise ModelError(
            f"{where}: has the name {taken[0]!r}; names that begin with {TAP_PREFIX!r} are those that rankfold gives"
            " while it measures; rename it"
        )


def all_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model, the main graph's initializers first."""
    yield from proto.graph.initializer
    yield from inner_tensors(proto)


def inner_tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor but the main graph's initializers: of attributes, bodies, functions and sparse ones."""
    trainings = (graph for info in proto.training_info for graph in (info.initialization, info.algorithm))
    yield from _sparse(proto.graph)
    yield from _of_nodes(proto.graph.node)
    for graph in trainings:
        yield from _of_graph(graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)


def _bad_text(message: Message) -> Iterator[bytes]:
    """Yield the text fields that hold no text: protobuf gives them as bytes."""
    for field, value in message.ListFields():
        if field.message_type is None and field.type != FieldDescriptor.TYPE_STRING:
            continue
        for part in value if field.is_repeated else (value,):
            if field.message_type is not None:
                yield from _bad_text(part)
            elif isinstance(part, bytes):
                yield part


def _domain(name: str) -> str:
    return name or "ai.onnx"


def _check_graph(where: Path, graph: GraphProto, outer: Set[str]) -> None:
    initializers = Counter(tensor.name for tensor in graph.initializer)
    initializers.update(tensor.values.name for tensor in graph.sparse_initializer)
    double = sorted(name for name, count in initializers.items() if count > 1)
    if double:
        raise ModelError(
            f"{where}: initializer {double[0]!r} stands {initializers[double[0]]} times; names must be unique, since"
            " tools disagree on which one counts; export the model again"
        )
    known = {*outer, *initializers, *(value.name for value in graph.input)}
    for node in graph.node:
        missing = next((name for name in node.input if name and name not in known), None)
        if missing is not None:
            raise ModelError(f"{where}: {_misplaced(graph, node, missing)}")
        for body in nested_graphs(node):
            _check_graph(where, body, known)
        known.update(node.output)
    lost = next((value.name for value in graph.output if value.name not in known), None)
    if lost is not None:
        raise ModelError(f"{where}: nothing makes output {lost!r}; export the model again")


def _misplaced(graph: GraphProto, node: NodeProto, name: str) -> str:
    """Return what is wrong where a node reads a name that nothing before it makes."""
    if not any(name in other.output for other in graph.node):
        return f"node {_named(node)} reads {name!r}, which nothing makes; export the model again"
    cycle = _cycle(graph)
    if cycle:
        path = " → ".join(_named(graph.node[place]) for place in [*cycle[:_SHOWN], cycle[0]])
        return f"nodes wait for each other in a cycle: {path}; export the model again"
    return (
        f"node {_named(node)} stands before the one that makes {name!r}, which it reads: onnxruntime runs such a model,"
        " but the ONNX standard does not allow it; sort it, as with"
        " onnxruntime.transformers.onnx_model.OnnxModel(model).topological_sort()"
    )


def _cycle(graph: GraphProto) -> list[int]:
    """Return the places of nodes that each need the one before, the first needing the last; none if there is none."""
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        place: {maker[name] for name in node.input if name in maker} for place, node in enumerate(graph.node)
    }  # fmt: skip
    readers: dict[int, list[int]] = {place: [] for place in needs}
    for place, needed in needs.items():
        for before in needed:
            readers[before].append(place)
    waiting = {place: len(needed) for place, needed in needs.items()}
    ready = [place for place, count in waiting.items() if not count]
    while ready:
        place = ready.pop()
        del waiting[place]
        for reader in readers[place]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    walk: dict[int, None] = {}
    place = next(iter(waiting), -1)
    while place >= 0 and place not in walk:
        walk[place] = None
        place = next(before for before in needs[place] if before in waiting)
    found = list(walk)
    return found[found.index(place) :][::-1] if found else []


def _check_calls(where: Path, proto: ModelProto) -> None:
    """Refuse functions that call themselves, straight or by way of others: whoever inlines them never ends."""
    calls = {
        _key(function): {(_domain(node.domain), node.op_type) for node in _all_nodes(function.node)}
        for function in proto.functions
    }
    while calls:
        leaves = [key for key, called in calls.items() if not called.intersection(calls)]
        if not leaves:
            raise ModelError(f"{where}: function {next(iter(calls))[1]!r} calls itself; export the model again")
        for key in leaves:
            del calls[key]


def _key(function: FunctionProto) -> tuple[str, str]:
    return _domain(function.domain), function.name


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for body in nested_graphs(node):
            yield from _all_nodes(body.node)


def _of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            sparse = [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                      *attribute.sparse_tensors]  # fmt: skip
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            yield from (part for found in sparse for part in (found.values, found.indices))
        for body in nested_graphs(node):
            yield from _of_graph(body)


def _of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _sparse(graph)
    yield from _of_nodes(graph.node)


def _sparse(graph: GraphProto) -> Iterator[TensorProto]:
    yield from (part for found in graph.sparse_initializer for part in (found.values, found.indices))


def _named(node: NodeProto) -> str:
    return repr(node.name or node.op_type)
