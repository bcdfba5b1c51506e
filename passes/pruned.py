"""The part of a model that some of its tensors need: a run of it costs what they cost, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ValueInfoProto

from rankfold.passes.carry import Rewritten
from rankfold.passes.graph_index import copy_without, nested_reads
from rankfold.passes.model_file import Model
from rankfold.passes.replaced import Array, with_values


def pruned(model: Model, values: dict[str, Array], tensors: Sequence[str]) -> Rewritten:
    """Return a model, with other values in some initializers, that computes some of its tensors alone.

    Args:
        model: The model; it is not changed.
        values: Initializer name to what it shall hold.
        tensors: Names of tensors that its nodes make; they become the outputs.
    """
    whole = with_values(model, values)
    needed, nodes = set(tensors), []
    for node in reversed(whole.skeleton.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update((*node.input, *nested_reads([node])))
    skeleton = copy_without(whole.skeleton, "node", "output", "value_info")
    skeleton.graph.node.extend(reversed(nodes))
    skeleton.graph.output.extend(ValueInfoProto(name=name) for name in dict.fromkeys(tensors))
    return Rewritten(skeleton, tuple(tensor for tensor in whole.initializers if tensor.name in needed))
