"""Tensors that an original and its fold have in common and that sum up what their layers did: the residual stream."""

from __future__ import annotations

from collections.abc import Iterator

from rankfold.passes.graph_index import GraphIndex, index_graph
from rankfold.passes.model_file import Model

MOST = 16  # spread over the depth; more cost room on disk and tell little more


def residual_sums(base: Model, candidate: Model) -> tuple[str, ...]:
    """Return the sums of two computed tensors that several nodes read, in both graphs under one name, in order.

    No outputs are among them, and at most `MOST`, evenly spread, the last one always.
    """
    first, second = index_graph(base.proto), index_graph(candidate.proto)
    there = set(_sums(second))
    found = [name for name in _sums(first) if name in there]
    chosen = range(len(found) - 1, -1, -max(1, -(-len(found) // MOST)))
    return tuple(found[place] for place in reversed(chosen))


def _sums(index: GraphIndex) -> Iterator[str]:
    for node in index.nodes:
        made = [name in index.producer for name in node.input]
        if node.op_type != "Add" or not all(made):
            continue
        name = node.output[0]
        if len(index.readers.get(name, ())) > 1 and name not in index.pinned:
            yield name
