"""What a program computes of shapes alone: for inputs of the same shapes it is the same, and is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from rankfold.training.program import NOWHERE, Program, Step, freed

MOST_KEPT = 1 << 20  # numbers kept for one set of shapes: masks of long sequences are computed again


@dataclass(frozen=True)
class Settled:
    """A program less all that is known beforehand.

    Attributes:
        places: How many there are, the last one always empty.
        values: What lies at some of them from the beginning.
        steps: Those that are left.
    """

    places: int
    values: Mapping[int, Tensor | None]
    steps: tuple[Step, ...]


@dataclass
class Watch:
    """Takes note, while a program runs, of what follows from shapes.

    Attributes:
        made: What steps on the CPU gave, by place.
        moved: What was moved to the device, by the step's number and the argument's.
    """

    made: dict[int, Tensor] = field(default_factory=dict)
    moved: dict[tuple[int, int], Tensor | None] = field(default_factory=dict)

    def settled(self, program: Program) -> Settled | None:
        """Return what is left of the program, None where too much would have to be kept, or numbers decide lengths."""
        if any(step.on_cpu and not step.settled for step in program.steps):
            return None
        values: dict[int, Tensor | None] = {place: value for place, value in self.made.items() if place != NOWHERE}
        if sum(value.numel() for value in (*values.values(), *self.moved.values()) if value is not None) > MOST_KEPT:
            return None
        steps, places = [], program.places - 1  # the empty one comes last again
        for number, step in enumerate(program.steps):
            if step.on_cpu:
                continue
            arguments = list(step.arguments)
            for at in step.moved:
                arguments[at], places = places, places + 1
                values[arguments[at]] = self.moved[number, at]
            steps.append(replace(step, arguments=tuple(arguments), moved=(), anchor=NOWHERE))
        return Settled(places + 1, values, freed(steps, program.outputs.values()))
