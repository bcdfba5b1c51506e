"""An ONNX graph as a torch module: the same numbers as onnxruntime's, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.training.fusing import fused
from rankfold.training.program import NOWHERE, Program, Step, laid_out
from rankfold.training.reading import Graph, read_graph
from rankfold.training.settled import Settled, Watch

_MOST_SHAPES = 64  # of inputs for which is kept what follows from them


def build(
    proto: ModelProto,
    *,
    weights: Mapping[str, NDArray[np.generic]] | None = None,
    trainable: Collection[str] = (),
    also: Sequence[str] = (),
) -> GraphModule:
    """Return a model's graph as a module, on the CPU, that computes what the graph infers: nothing drops out.

    Args:
        proto: The model, of opset 13 to 25, with its local functions in line. An initializer that is also an input
            is a constant here.
        weights: Initializers by name, instead of those in `proto`; those that it keeps in other files are needed.
        trainable: Names of constants that become parameters; all others are frozen.
        also: Names of tensors of the graph that come out beside its outputs.

    Raises:
        ModelError: The graph has operators, attributes or types that are not known here (the message names all of
            them), or a name is not found in it.
    """
    graph = read_graph(proto, weights or {})
    _check_names(graph, trainable, also)
    graph = fused(graph, kept=also, trainable=trainable)
    program = laid_out(graph, dict.fromkeys([*graph.outputs, *also]), trainable=frozenset(trainable))
    return GraphModule(program, graph.constants, trainable)


class GraphModule(nn.Module):
    """A graph whose trainable constants are parameters; `state_dict` holds these alone.

    The frozen ones are buffers that follow `.to(device)`; the types are the graph's and are best left. Feeds are
    expected on the module's device; what follows from shapes alone is computed, and comes out, on the CPU.
    """

    def __init__(self, program: Program, constants: Mapping[str, Tensor], trainable: Collection[str]) -> None:
        super().__init__()
        self._program = program
        self._settled: dict[Hashable, Settled] = {}
        self._cpu_constants = {place: constants[name] for name, place in program.cpu_constants.items()}
        self._trainable = {name: _attribute(name) for name in trainable}
        self._placed = {place: _attribute(name) for name, place in program.constants.items()}
        for name, attribute in self._trainable.items():
            self.register_parameter(attribute, nn.Parameter(constants[name]))
        for name in program.constants.keys() - self._trainable.keys():
            self.register_buffer(_attribute(name), constants[name], persistent=False)

    @property
    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Return the parameters by their names in the graph."""
        return {name: self.get_parameter(attribute) for name, attribute in self._trainable.items()}

    def forward(self, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name.

        A value is let go after its last use; what a gradient needs of it, autograd keeps.

        Raises:
            CalibrationDataError: The feed's names are not those of the graph's inputs.
        """
        program = self._program
        if feed.keys() != program.inputs.keys():
            raise CalibrationDataError(
                f"the feed has {sorted(feed)} and the graph's inputs are {sorted(program.inputs)}; feed these"
            )
        shapes = tuple((name, value.shape, value.dtype, value.device) for name, value in sorted(feed.items()))
        settled = self._settled.get(shapes)
        if settled is None:
            return self._run_whole(feed, shapes)
        values = self._begun(settled.places, feed)
        for place, value in settled.values.items():
            values[place] = value
        for step in settled.steps:
            _take(step, [values[place] for place in step.arguments], values)
        return {name: _there(values[place], name) for name, place in program.outputs.items()}

    def _run_whole(self, feed: Mapping[str, Tensor], shapes: Hashable) -> dict[str, Tensor]:
        """Compute what follows from shapes too, and keep it, unless no gradient could be taken with it later."""
        program, watch = self._program, Watch()
        values = self._begun(program.places, feed)
        for place, constant in self._cpu_constants.items():
            values[place] = watch.made[place] = constant
        for number, step in enumerate(program.steps):
            arguments = [values[place] for place in step.arguments]
            for at in step.moved:
                arguments[at] = watch.moved[number, at] = _beside(arguments[at], arguments[step.anchor])
            made = _take(step, arguments, values)
            if step.on_cpu:
                watch.made |= made
        if not torch.is_inference_mode_enabled() and (settled := watch.settled(program)) is not None:
            if len(self._settled) == _MOST_SHAPES:
                self._settled.clear()
            self._settled[shapes] = settled
        return {name: _there(values[place], name) for name, place in program.outputs.items()}

    def _begun(self, places: int, feed: Mapping[str, Tensor]) -> list[Tensor | None]:
        """Return the places of a run, with what is fed and the constants on the device."""
        values: list[Tensor | None] = [None] * places
        for name, place in self._program.inputs.items():
            values[place] = feed[name]
        for place, attribute in self._placed.items():
            values[place] = getattr(self, attribute)
        return values

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._settled.clear()  # some of it lies on the device
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _take(step: Step, arguments: Sequence[Tensor | None], values: list[Tensor | None]) -> dict[int, Tensor]:
    """Compute one node, lay what it gives at its places, let go what nobody reads any more, and return what it gave."""
    try:
        found = step.compute(*arguments)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        error.add_note(f"while computing {step.name}")
        raise
    # An output that nobody asked for may be made too.
    made = dict(zip(step.results, (found,) if isinstance(found, Tensor) else found, strict=False))
    for place, value in made.items():
        values[place] = value
    values[NOWHERE] = None
    for place in step.done:
        values[place] = None
    return made


def _beside(value: Tensor | None, anchor: Tensor | None) -> Tensor | None:
    return value if value is None or anchor is None else value.to(anchor.device, non_blocking=True)


def _there(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ModelError(f"output {name!r} is one that its node does not make")
    return value


def _attribute(name: str) -> str:
    """Return a tensor's name as torch allows it for a part of a module: without dots, and no method's name."""
    return "tensor " + name.replace("%", "%25").replace(".", "%2E")


def _check_names(graph: Graph, trainable: Collection[str], also: Collection[str]) -> None:
    unknown = sorted(set(trainable) - graph.constants.keys())
    if unknown:
        raise ModelError(f"{unknown} are to be trained and are no constants of the graph; name its initializers")
    whole = sorted(name for name in trainable if not graph.constants[name].is_floating_point())
    if whole:
        raise ModelError(f"{whole} are to be trained and hold no floating-point numbers; leave them out")
    made = {name for node in graph.nodes for name in node.proto.output} | {*graph.inputs, *graph.constants}
    if lost := sorted(set(also) - made):
        raise ModelError(f"{lost} are asked for and are no tensors of the graph; name tensors that its nodes make")
