"""A graph laid out for running: which value lies where, on which device, and when it is let go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rankfold.training.node import Compute
from rankfold.training.reading import BoundNode, Graph

NOWHERE = -1
"""The place of inputs that are left out, always None, and of outputs that nobody reads."""
MOST_ON_CPU = 64
"""Elements of a constant that is also kept on the CPU: shapes, axes and scalars have fewer, tables of numbers more."""


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        name: How messages call it.
        compute: Takes what lies at `arguments` and returns what comes to `results`.
        arguments, results: Places.
        moved: Which arguments come from the CPU to the device of the others.
        anchor: An argument that is on that device.
        done: Places that nobody reads after this.
        on_cpu: Whether it is computed there.
        settled: Whether what it gives follows from constants and the shapes of the inputs alone.
    """

    name: str
    compute: Compute
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    moved: tuple[int, ...]
    anchor: int
    done: tuple[int, ...]
    on_cpu: bool = False
    settled: bool = False


@dataclass(frozen=True)
class Program:
    """Steps over a list of places, whose last one is always empty.

    What follows from shapes and small constants alone is computed on the CPU whatever the device: there torch knows
    the numbers without waiting for a GPU.

    Attributes:
        places: How many there are.
        inputs, outputs: Their names and places.
        constants: Those on the device, by name.
        cpu_constants: Those on the CPU; a small constant may be in both.
    """

    places: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    constants: Mapping[str, int]
    cpu_constants: Mapping[str, int]
    steps: tuple[Step, ...]


def laid_out(graph: Graph, outputs: Collection[str], *, trainable: Collection[str]) -> Program:
    """Return the program of a graph that leaves some of its values as outputs.

    Args:
        graph: The graph.
        outputs: Names of values of it.
        trainable: Names of constants that change, and so stay on the device.
    """
    fixed = graph.constants.keys() - set(trainable)
    layout = _Layout({name for name in fixed if graph.constants[name].numel() <= MOST_ON_CPU}, fixed)
    inputs = {name: layout.place(name) for name in graph.inputs}
    steps = [layout.step(node) for node in graph.nodes]
    kept = {name: layout.place(name, on_cpu=name in layout.on_cpu) for name in outputs}
    places = layout.places
    return Program(
        len(places) + 1,
        inputs,
        kept,
        {name: place for (name, on_cpu), place in places.items() if name in graph.constants and not on_cpu},
        {name: place for (name, on_cpu), place in places.items() if name in graph.constants and on_cpu},
        freed(steps, kept.values()),
    )


class _Layout:
    """Gives places to values, step after step.

    Attributes:
        places: By name and whether it is on the CPU.
        on_cpu: Computed values that lie there.
        settled: Those of them that follow from constants and the shapes of the inputs.
        loose: Values whose shape does not.
    """

    def __init__(self, small: set[str], fixed: set[str]) -> None:
        self.places: dict[tuple[str, bool], int] = {}
        self.on_cpu: set[str] = set()
        self.settled: set[str] = set()
        self.loose: set[str] = set()
        self._small, self._fixed = small, fixed

    def place(self, name: str, *, on_cpu: bool = False) -> int:
        """Return where a value lies, or will."""
        return self.places.setdefault((name, on_cpu), len(self.places)) if name else NOWHERE

    def step(self, node: BoundNode) -> Step:
        """Return a node as a step."""
        names, results = node.proto.input, node.proto.output
        here = [name in self.on_cpu or name in self._small for name in names]
        given = [at for at, name in enumerate(names) if name]
        all_here = all(here[at] for at in given)
        on_cpu = all_here or node.operator.on_cpu
        if on_cpu:
            self.on_cpu.update(name for name in results if name)
        read_here = [here[at] and (all_here or at in node.operator.shapes) for at in range(len(names))]
        moved = [at for at in given if names[at] in self.on_cpu and not read_here[at]]
        arguments = [
            self.place(name, on_cpu=read_here[at] or name in self.on_cpu) for at, name in enumerate(names)
        ]  # fmt: skip
        anchors = [at for at in given if not read_here[at] and at not in moved]
        return Step(
            node.name,
            node.compute,
            tuple(arguments),
            tuple(self.place(name, on_cpu=name in self.on_cpu) for name in results),
            tuple(moved),
            anchors[0] if anchors else NOWHERE,
            (),
            on_cpu,
            self._settles(node, given, on_cpu=on_cpu),
        )

    def _settles(self, node: BoundNode, given: Sequence[int], *, on_cpu: bool) -> bool:
        """Return whether what a node gives follows from constants and the inputs' shapes; note its outputs as such.

        A length that numbers decide, as those of what is not zero, makes all that is computed with it loose.
        """
        names, operator = node.proto.input, node.operator
        known = [name in self.settled or name in self._fixed for name in names]
        loose = any(names[at] in self.loose for at in given)
        only_shapes = operator.on_cpu and not loose and all(known[at] for at in given if at in operator.shapes)
        settles = on_cpu and (only_shapes or all(known[at] for at in given))
        by_numbers = operator.counts or any(at in operator.shapes and not known[at] for at in given)
        results = [name for name in node.proto.output if name]
        if settles:
            self.settled.update(results)
        elif loose or (by_numbers and not operator.picks):
            self.loose.update(results)
        return settles


def freed(steps: Sequence[Step], kept: Iterable[int]) -> tuple[Step, ...]:
    """Return the steps with what nobody reads after each, and what nobody reads at all."""
    seen = {*kept, NOWHERE}
    found = []
    for step in reversed(steps):
        last = dict.fromkeys(place for place in (*step.arguments, *step.results) if place not in seen)
        seen.update(last)
        found.append(replace(step, done=tuple(last)))
    return tuple(found[::-1])
