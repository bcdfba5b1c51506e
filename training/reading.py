"""What a graph holds, read once; all that cannot be run is found here and named together, before any work."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from torch import Tensor

from rankfold.errors import ModelError
from rankfold.training.node import Compute, Node, Operator, bound
from rankfold.training.operators import OPERATORS
from rankfold.training.operators_index import constant
from rankfold.training.tensors import from_array, from_proto, torch_type

OLDEST_OPSET, NEWEST_OPSET = 13, 25  # between these the operators mean what they mean here
CONSTANT = ("", "Constant")  # the one operator that the table lacks: it is read and not computed


@dataclass(frozen=True)
class BoundNode:
    """A node and what computes it."""

    proto: NodeProto
    operator: Operator
    compute: Compute

    @property
    def name(self) -> str:
        """Return how messages call it."""
        return f"{self.proto.op_type} {self.proto.name or self.proto.output[0]!r}"


@dataclass(frozen=True)
class Graph:
    """A graph whose every node can be computed.

    Attributes:
        inputs: The names that have to be fed.
        outputs: The names of its outputs.
        constants: Its initializers and what its Constant nodes make, by name.
        nodes: All others, each after those that it reads.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Tensor]
    nodes: tuple[BoundNode, ...]


@dataclass(frozen=True)
class _Lack:
    """Something that is not there, and which node, or which other thing of this kind, needs it."""

    reason: str
    name: str
    kind: str = "node"


def read_graph(proto: ModelProto, weights: Mapping[str, NDArray[np.generic]]) -> Graph:
    """Return a model's graph, ready to be computed.

    Args:
        proto: The model.
        weights: Initializers that the model only refers to, by name.

    Raises:
        ModelError: Something in it cannot be computed; the message names all of it.
    """
    graph = proto.graph
    versions = {_domain(entry.domain): entry.version for entry in proto.opset_import}
    lacks = list(_lacks_around(graph, versions.get("", 0)))
    constants = _initializers(graph, weights, lacks)
    inputs = tuple(value.name for value in graph.input if value.name not in constants)
    nodes = []
    known = {*inputs, *constants}
    for node in graph.node:
        lost = next((name for name in node.input if name and name not in known), None)
        if lost is not None:
            lacks.append(_Lack(f"what makes {lost!r} before it is read", _named(node)))
        known.update(node.output)
        try:
            read = _read(Node(node, versions.get(_domain(node.domain), 1), constants))
        except ModelError as error:
            lacks.append(_Lack(str(error), _named(node)))
            continue
        if isinstance(read, Tensor):
            constants[node.output[0]] = read
        else:
            nodes.append(read)
    outputs = tuple(value.name for value in graph.output)
    lacks.extend(_Lack(f"what makes output {name!r}", "") for name in outputs if name not in known)
    if lacks:
        raise ModelError(f"graph {graph.name!r} cannot be run in torch; missing: {_listed(lacks)}; {_advice(proto)}")
    return Graph(inputs, outputs, constants, tuple(nodes))


def _lacks_around(graph: GraphProto, opset: int) -> Iterator[_Lack]:
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        yield _Lack(f"opset {opset} (known are {OLDEST_OPSET} to {NEWEST_OPSET})", "")
    for tensor in graph.sparse_initializer:
        yield _Lack(f"sparse initializer {tensor.values.name!r}", "")
    for value in graph.input:
        if reason := _input_reason(value):
            yield _Lack(f"input {value.name!r} as {reason}", "")


def _input_reason(value: ValueInfoProto) -> str | None:
    if value.type.WhichOneof("value") != "tensor_type":
        return str(value.type.WhichOneof("value"))
    try:
        torch_type(value.type.tensor_type.elem_type)
    except ModelError as error:
        return str(error)
    return None


def _initializers(
    graph: GraphProto, weights: Mapping[str, NDArray[np.generic]], lacks: list[_Lack]
) -> dict[str, Tensor]:
    """Return the initializers as tensors; one that is missing stands as an empty one, so that no more is said of it."""
    found = {}
    for tensor in graph.initializer:
        try:
            given = weights.get(tensor.name)
            found[tensor.name] = from_proto(tensor) if given is None else from_array(given)
        except ModelError as error:
            found[tensor.name] = torch.empty(0)
            lacks.append(_Lack(str(error), repr(tensor.name), "initializer"))
    return found


def _read(node: Node) -> BoundNode | Tensor:
    """Return what computes a node, or what a Constant node holds; raise ModelError with what is missing."""
    key = (_domain(node.proto.domain), node.proto.op_type)
    title = ".".join(part for part in key if part)
    operator = OPERATORS.get(key)
    if operator is None and key != CONSTANT:
        raise ModelError(f"operator {title}")
    try:
        return constant(node) if operator is None else BoundNode(node.proto, operator, bound(operator, node))
    except ModelError as error:
        raise ModelError(f"{title} with {error}") from error


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _named(node: NodeProto) -> str:
    return repr(node.name or next(iter(node.output), ""))


def _listed(lacks: Collection[_Lack]) -> str:
    """Return one phrase for each reason, with how many nodes or initializers share it."""
    names: dict[tuple[str, str], list[str]] = {}
    for lack in lacks:
        names.setdefault((lack.reason, lack.kind), []).append(lack.name)
    return ", ".join(reason + _places(kind, found) for (reason, kind), found in names.items())


def _places(kind: str, names: list[str]) -> str:
    if not names[0]:
        return ""
    return f" ({kind} {names[0]})" if len(names) == 1 else f" ({len(names)} {kind}s, the first {names[0]})"


def _advice(proto: ModelProto) -> str:
    if proto.functions:
        return "put its local functions in line first: onnx.inliner.inline_local_functions"
    return f"export it without these, for an opset from {OLDEST_OPSET} to {NEWEST_OPSET}"
