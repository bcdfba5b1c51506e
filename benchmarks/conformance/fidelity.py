"""What a fold changed in a model file: every difference, and of each whether the recorded pairs explain it.

Explained are: a node that gave way to the pair recorded for it, with the bias that takes up the mean; weights and nodes
behind them that nothing reads any more; the shapes noted of tensors that are gone; the `rankfold.*` metadata; other
numbers in the initializers that `rankfold.healed` lists; and local functions put in the place of their calls. All else
is unexplained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from benchmarks.conformance.canonical import FunctionId, canonical, reads
from benchmarks.conformance.differences import Difference, differences
from benchmarks.conformance.regions import Region, is_constant, new_pairs, read_as, region_complaints, regions
from rankfold.passes.metadata import pairs_of
from rankfold.passes.replaced import healed_names

# The fields of a tensor that hold its numbers.
_NUMBERS = ("raw_data", "float_data", "double_data", "int32_data")
# What may stand between a stored weight and the node that multiplies by it.
BEHIND_WEIGHTS = frozenset({"Transpose", "Identity", "Cast", "Reshape", "Constant", "Split", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Fidelity:
    """The differences between a model and what was made of it.

    Attributes:
        pairs: How many folds the result records beyond the source's.
        inlined: Whether local functions were put in the place of their calls.
        explained: Number of differences by what explains them.
        unexplained: One line for each of the others.
    """

    pairs: int
    inlined: bool
    explained: dict[str, int]
    unexplained: tuple[str, ...]


@dataclass
class _Judgement:
    """Both models, the changed places between them, and the folds found there."""

    before: ModelProto
    after: ModelProto
    found: list[Difference]
    regions: tuple[Region, ...]
    explained: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.read_before, self.read_after = reads(self.before.graph), reads(self.after.graph)
        self.replaced = {region.output for region in self.regions}
        self.placed = {name for region in self.regions for node in region.nodes for name in node.output}
        self.factors = frozenset(name for region in self.regions for name in region.factors)


def compare_files(source: Path, result: Path) -> Fidelity:
    """Return what differs between a model file and one that was folded from it."""
    try:
        before, after = canonical(source), canonical(result)
    except OSError as error:
        return Fidelity(0, False, {}, (f"external data cannot be read: {error}",))
    gone = _functions(before) - _functions(after)
    return compare_models(canonical(source, inlined=gone) if gone else before, after, inlined=bool(gone))


def _functions(model: ModelProto) -> set[FunctionId]:
    return {(function.domain, function.name) for function in model.functions}


def compare_models(before: ModelProto, after: ModelProto, *, inlined: bool = False) -> Fidelity:
    """Return what differs between two models whose weights were made comparable."""
    pairs = new_pairs(before, after)
    folds = tuple(region for pair in pairs for region in regions(pair, before.graph, after.graph))
    judged = _Judgement(before, after, list(differences(before, after)), folds)
    for pair in pairs:
        if not any(region.pair is pair for region in folds):
            judged.unexplained.append(f"pair {pair.down!r}, {pair.up!r}: no node multiplies by it")
    for region in folds:
        judged.unexplained.extend(region_complaints(region, before.graph, after.graph))
    for difference in judged.found:
        _judge(judged, difference)
    judged.unexplained.extend(_left_behind(judged))
    return Fidelity(len(pairs), inlined, dict(judged.explained), tuple(judged.unexplained))


def _judge(judged: _Judgement, difference: Difference) -> None:
    rule = _RULES.get(difference.path)
    parts = [Difference(difference.path, difference.before, difference.after)]
    if rule is not None and difference.before is not None and difference.after is not None:
        whole = rule(judged, difference)
        if whole is not None:
            judged.explained[whole] += 1
            return
        if difference.before == difference.after:  # it moved, which nothing explains
            judged.unexplained.extend(difference.lines())
            return
        parts = [
            Difference(difference.path, difference.before, None),
            Difference(difference.path, None, difference.after),
        ]
    reasons = [None if rule is None else rule(judged, part) for part in parts]
    if all(reasons):
        judged.explained.update(filter(None, reasons))
    else:
        judged.unexplained.extend(difference.lines())


def _node(judged: _Judgement, change: Difference) -> str | None:
    before, after = change.before, change.after
    if before is not None and after is not None:
        return _operand_changed(judged, before, after)
    if after is not None:
        if set(after.output) <= judged.placed:
            return "new node of a pair"
        return "factor or part stored in a narrower type" if _widens(judged, after) else None
    if judged.replaced.intersection(before.output):
        return "node that a pair replaces"
    return "orphan behind a weight" if _orphaned(judged, before) else None


def _operand_changed(judged: _Judgement, before: NodeProto, after: NodeProto) -> str | None:
    """Return why one operand of a node is another: a fold's new bias, or the node's own part of a weight."""
    changed = list(differences(before, after))
    if [difference.path for difference in changed] != ["input"] or len(before.input) != len(after.input):
        return None
    places = [place for place, name in enumerate(before.input) if after.input[place] != name]
    if len(places) != 1:
        return None
    old, new = before.input[places[0]], after.input[places[0]]
    owners = [region for region in judged.regions if set(region.outputs).intersection(after.input)]
    if before.op_type == "Add" and any(_is_bias(judged, region, new) for region in owners):
        return "bias that takes up a mean"
    cut = is_constant(old, judged.before.graph) and old not in judged.read_after
    parts = [tensor.name for tensor in judged.after.graph.initializer if _is_part(tensor.name)]
    own = any(new in read_as(part, judged.after.graph) for part in parts)
    return "part of a weight whose other part is folded" if cut and own else None


def _is_part(name: str) -> bool:
    return name.rpartition("/")[2].startswith("part")


def _widens(judged: _Judgement, node: NodeProto) -> bool:
    """Return whether a node is the Cast behind a factor, or behind a part of a split weight."""
    return node.op_type == "Cast" and (node.output[0] in judged.factors or _is_part(node.input[0]))


def _is_bias(judged: _Judgement, region: Region, name: str) -> bool:
    return name.startswith(f"{region.label}/bias") and name in _initializers(judged.after.graph)


def _orphaned(judged: _Judgement, node: NodeProto) -> bool:
    was_read = any(name in judged.read_before for name in node.output)
    still_read = any(name in judged.read_after for name in node.output)
    return node.op_type in BEHIND_WEIGHTS and was_read and not still_read


def _initializer(judged: _Judgement, change: Difference) -> str | None:
    if change.before is not None and change.after is not None:
        return "numbers that healing changed" if _healed(judged, change.before, change.after) else None
    if change.after is not None:
        return "new constant of a pair" if _belongs(judged, change.after.name) else None
    name = change.before.name
    unread = name in judged.read_before and name not in judged.read_after
    return "weight or bias that nothing reads any more" if unread else None


def _healed(judged: _Judgement, before: TensorProto, after: TensorProto) -> bool:
    """Return whether only the numbers of a tensor are others, and it is a recorded factor or listed as healed."""
    listed = {*healed_names(judged.after), *(name for pair in pairs_of(judged.before) for name in (pair.down, pair.up))}
    bare = [TensorProto(), TensorProto()]
    for copy, tensor in zip(bare, (before, after), strict=True):
        copy.CopyFrom(tensor)
        for name in _NUMBERS:
            copy.ClearField(name)
    return after.name in listed and bare[0] == bare[1]


def _belongs(judged: _Judgement, name: str) -> bool:
    """Return whether a new constant is a factor, or stands in a fold or in the Add behind it."""
    if any(name in (region.pair.down, region.pair.up) for region in judged.regions) or _is_part(name):
        return True
    readers = [node for node in judged.after.graph.node if name in node.input]
    inside = [region for region in judged.regions if any(node in region.nodes for node in readers)]
    behind = [region for region in judged.regions if any(set(region.outputs) & set(node.input) for node in readers)]
    return any(name.startswith(f"{region.label}/") for region in (*inside, *behind))


def _value_info(judged: _Judgement, change: Difference) -> str | None:
    if change.after is not None:
        return None
    return None if change.before.name in _tensors(judged.after.graph) else "noted shape of a tensor that is gone"


def _metadata(_: _Judgement, change: Difference) -> str | None:
    entry = change.after if change.after is not None else change.before
    kept = change.after is not None  # a record is written or brought up to date, never taken away
    return "record of the folds" if kept and entry.key.startswith("rankfold.") else None


_RULES: dict[str, Any] = {
    "graph.node": _node,
    "graph.initializer": _initializer,
    "graph.value_info": _value_info,
    "metadata_props": _metadata,
}


def _left_behind(judged: _Judgement) -> Iterator[str]:
    """Yield what the folds made useless and left in the file."""
    for tensor in judged.after.graph.initializer:
        if tensor.name in judged.read_before and tensor.name not in judged.read_after:
            yield f"graph.initializer[{tensor.name}]: left behind, nothing reads it any more"
    for node in judged.after.graph.node:
        names = [name for name in node.output if name]
        was_read = any(name in judged.read_before for name in names)
        if was_read and not any(name in judged.read_after for name in names):
            yield f"graph.node[{','.join(node.output)}]: left behind, nothing reads it any more"
    known = _tensors(judged.after.graph)
    before = _tensors(judged.before.graph)
    for value in judged.after.graph.value_info:
        if value.name in before and value.name not in known:
            yield f"graph.value_info[{value.name}]: left behind, there is no such tensor any more"


def _initializers(graph: GraphProto) -> set[str]:
    return {tensor.name for tensor in graph.initializer}


def _tensors(graph: GraphProto) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    return made | _initializers(graph) | sparse | {value.name for value in graph.input}
