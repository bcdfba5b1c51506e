"""The cases that come with the onnx package, as they are and with their weight-like inputs frozen."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test import loader
from onnx.backend.test.case import node
from onnx.backend.test.case.node import _NodeTestCases

from benchmarks.conformance.check import Example, check
from benchmarks.conformance.freezing import Case, frozen
from benchmarks.conformance.outcome import Outcome

VARIANTS = ("as it is", "frozen", "frozen left")
_KINDS = ("simple", "pytorch-converted", "pytorch-operator")
_LIGHT = Path(loader.DATA_DIR) / "light"


def node_cases(operators: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the cases made for single operators: for all of them, or for those whose modules of onnx are named.

    The cases are made when a module is first imported, and what was imported before is yielded too.
    """
    with warnings.catch_warnings():  # some overflow on purpose
        warnings.simplefilter("ignore")
        for name in operators:
            importlib.import_module(f"{node.__name__}.{name}")
        found = list(_NodeTestCases) if operators else loader.load_model_tests(kind="node")
    for case in sorted(found, key=lambda case: case.name):
        for number, (inputs, outputs) in enumerate(case.data_sets):
            name = case.name if len(case.data_sets) == 1 else f"{case.name}/{number}"
            fed = zip((value.name for value in case.model.graph.input), map(_plain, inputs), strict=False)
            yield Case(
                f"node/{name}", case.model, dict(fed), [_plain(value) for value in outputs], case.rtol, case.atol
            )


def model_cases() -> Iterator[Case]:
    """Yield the cases whose models and data lie in the package."""
    for kind in _KINDS:
        for case in sorted(loader.load_model_tests(kind=kind), key=lambda case: case.name):
            model = onnx.load(Path(case.model_dir) / "model.onnx")
            for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
                fed = enumerate(list(model.graph.input)[: len(list(folder.glob("input_*.pb")))])
                inputs = {value.name: _read(folder / f"input_{n}.pb", value) for n, value in fed}
                outputs = [_read(folder / f"output_{n}.pb", value) for n, value in enumerate(model.graph.output)]
                name = f"{kind}/{case.name}/{folder.name.rpartition('_')[2]}"
                yield Case(name, model, inputs, outputs, case.rtol, case.atol)


def light_cases() -> Iterator[Case]:
    """Yield the large networks with constant weights, fed as onnx's own runner feeds them."""
    for path in sorted(_LIGHT.glob("light_*.onnx")):
        model = onnx.load(path)
        known = {tensor.name for tensor in model.graph.initializer}
        value = next(value for value in model.graph.input if value.name not in known)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        size = int(np.prod(shape))
        expected = numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb")))
        ramp = (np.arange(size).reshape(shape) / size).astype(np.float32)
        yield Case(f"light/{path.stem}", model, {value.name: ramp}, [expected], 1e-3, 1e-7)


def _plain(value: Any) -> Any:
    """Return an array for a tensor message or a number, and everything else as it is."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    content, kind = path.read_bytes(), value.type.WhichOneof("value")
    if kind == "sequence_type":
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind == "optional_type":
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def check_case(case: Case, variant: str, folder: Path) -> Outcome | None:
    """Send one variant of a case through the library; None where there is no such variant."""
    chosen = case if variant == VARIANTS[0] else frozen(case, left=variant == VARIANTS[2])
    if chosen is None:
        return None
    path = folder / "model.onnx"
    onnx.save(chosen.model, path)
    example = Example(path, chosen.inputs, chosen.expected, chosen.rtol, chosen.atol)
    return check(example, Outcome(f"{case.name}, {variant}"))
