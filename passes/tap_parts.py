"""Collecting the sums of some of a tapped model's tensors only, so that not all of them have to be held at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from onnx import ModelProto

from rankfold.values import Request, Tapped


def part_of(tapped: Tapped, requests: Collection[Request]) -> Tapped:
    """Return a tapped model that gives the sums of these requests alone.

    Only the other requests' gram matrices are taken out, which are the large part. Their column sums and counts go on
    being computed: each tensor keeps a reader, so that the runtime fuses the same nodes whatever the part is, and the
    sums of a request do not depend on the company it is collected in.
    """
    dropped = {taps.gram for request, taps in tapped.taps.items() if request not in requests}
    if not dropped:
        return tapped
    addition = ModelProto.FromString(tapped.addition)
    graph = addition.graph
    nodes = [node for node in graph.node if dropped.isdisjoint(node.output)]
    outputs = [value for value in graph.output if value.name not in dropped]
    for field, kept in (("node", nodes), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    return replace(
        tapped,
        addition=addition.SerializeToString(deterministic=True),
        taps={request: taps for request, taps in tapped.taps.items() if request in requests},
    )
