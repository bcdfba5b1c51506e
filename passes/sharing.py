"""Weights that several nodes use: one site where they use it alike, none where it would have to stay."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rankfold.passes import reasons
from rankfold.passes.constants import TRACED, Step
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.operands import Candidate
from rankfold.passes.site import Site


def grouped(index: GraphIndex, candidates: dict[int, Candidate]) -> tuple[list[Site], dict[int, str]]:
    """Put uses of one weight together; refuse those whose weight must stay for another use.

    Returns:
        The sites in graph order, and the reason for each node that is refused.
    """
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    for candidate in candidates.values():
        use = candidate.use
        key = (candidate.weight.root, candidate.weight.steps, candidate.flipped, candidate.kernel)
        groups.setdefault((*key, use.weight_operand, use.feature_axis), []).append(candidate)
    by_root: dict[str, list[list[Candidate]]] = {}
    for members in groups.values():
        by_root.setdefault(members[0].weight.root, []).append(members)
    sites: list[Site] = []
    refused: dict[int, str] = {}
    for root, parts in by_root.items():
        found, left = _of_one_root(index, root, parts)
        sites += found
        refused |= left
    return sorted(sites, key=lambda site: site.uses[0].node), refused


def _of_one_root(index: GraphIndex, root: str, parts: list[list[Candidate]]) -> tuple[list[Site], dict[int, str]]:
    found = list(_final_readers(index, root))
    readers = list(dict.fromkeys(found))
    within = {member.use.node for members in parts for member in members}
    # A node that reads it twice, such as a Gemm whose C it is too, needs it for something else as well.
    stranger = next((reader for reader in readers if reader not in within or found.count(reader) > 1), None)
    if stranger is None and (len(parts) == 1 or _disjoint(parts)):
        return [_site(index, members) for members in parts], {}
    refused: dict[int, str] = {}
    for members in parts:
        own = {member.use.node for member in members}
        other = next((reader for reader in readers if reader not in own), None) if stranger is None else stranger
        refused |= dict.fromkeys(own, _why(index, root, other))
    return [], refused


def _why(index: GraphIndex, root: str, other: int | str | None) -> str:
    if not isinstance(other, int):
        return reasons.SHARED_OUTSIDE.format(root=root, user=other)
    user = f"{index.nodes[other].op_type} {index.names[other]!r}"
    return reasons.SHARED_OTHERWISE.format(root=root, user=user)


def _disjoint(parts: Sequence[list[Candidate]]) -> bool:
    """Return whether no two parts of a weight that is split share an element."""
    cuts = [_first_cut(members[0].weight.steps) for members in parts]
    known = [cut for cut in cuts if cut is not None]
    if len(known) < len(cuts) or len({before for before, _, _ in known}) > 1:
        return False
    ends = sorted((start, end) for _, start, end in known)
    return all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(ends))


def _first_cut(steps: tuple[Step, ...]) -> tuple[tuple[object, ...], int, int] | None:
    for number, (operation, argument) in enumerate(steps):
        if operation == "Split":
            return (steps[:number], argument[0]), argument[1], argument[2]
    return None


def _site(index: GraphIndex, members: list[Candidate]) -> Site:
    first = members[0]
    fan_in, fan_out = first.shape
    return Site(
        name=index.names[first.use.node],
        op_type=index.nodes[first.use.node].op_type,
        weight=first.weight,
        flipped=first.flipped,
        in_features=fan_in,
        out_features=fan_out,
        uses=tuple(member.use for member in members),
        side="output",
        stack=first.stack,
        kernel=first.kernel,
    )


def _final_readers(index: GraphIndex, root: str) -> Iterator[int | str]:
    """Yield the nodes that read a constant, looked at through reshaping nodes, and names for what is not a node."""
    waiting = [root]
    while waiting:
        tensor = waiting.pop()
        if tensor in index.pinned:
            yield "a graph output or a nested graph"
        for place in index.readers.get(tensor, ()):
            node = index.nodes[place]
            if node.op_type in TRACED and node.input[0] == tensor and not node.domain:
                waiting.extend(node.output)
            else:
                yield place
