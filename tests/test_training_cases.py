"""The executor on the cases that come with onnx for each of its operators."""

from __future__ import annotations

import re

import onnx
import pytest
from benchmarks.conformance.backend import node_cases
from benchmarks.conformance.freezing import Case
from executor_examples import disagreement, run_in_torch
from executor_refusals import REFUSED
from onnx import ModelProto
from onnx_examples import run

from rankfold.errors import ModelError
from rankfold.training.operators import OPERATORS
from rankfold.training.reading import CONSTANT, NEWEST_OPSET, OLDEST_OPSET
from rankfold.training.tensors import TORCH_TYPES

FOUR_DIGITS = {"gridsample_bicubic", "averagepool_2d_ceil_last_window_starts_on_pad"}
"""Cases whose expected numbers are written with no more."""
LENGTH_NOT_ROUNDED = {f"resize_downsample_scales_{mode}_align_corners" for mode in ("linear", "cubic")}
"""Cases that map corners of a length with a fraction; onnxruntime, and torch, map those of the length that results."""
FEWEST = 1150  # cases that run; were the cases or the table read wrongly, few would


def short(case: Case) -> str:
    return case.name.removeprefix("node/test_")


def concerns_the_executor(case: Case) -> bool:
    """Return whether it has all operators of a case, and torch the types that go in and out."""
    graph = case.model.graph
    values = [value.type for value in (*graph.input, *graph.output)]
    return {(node.domain, node.op_type) for node in graph.node} <= {*OPERATORS, CONSTANT} and all(
        value.WhichOneof("value") == "tensor_type" and value.tensor_type.elem_type in TORCH_TYPES for value in values
    )


def in_range(model: ModelProto) -> ModelProto:
    """Return a case's model with an opset that the executor takes: the nearest.

    A case has the opset of its operator's last change. One that never changed since means the same later, and what
    changed after the newest opset here were mostly types; where it was more, the case fails or is refused.
    """
    moved = ModelProto()
    moved.CopyFrom(model)
    for entry in moved.opset_import:
        if not entry.domain:
            entry.version = min(max(entry.version, OLDEST_OPSET), NEWEST_OPSET)
    return moved


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {short(case): case for case in node_cases() if concerns_the_executor(case)}


def outcome(case: Case) -> str:
    """Return `agrees`, what is missing, or how the outputs differ."""
    try:
        found = run_in_torch(in_range(case.model), case.inputs)
    except ModelError as error:
        phrase = re.search(r"missing: (.*?) \(node", str(error))
        return phrase.group(1) if phrase else str(error)
    return disagreement(found, case.expected) or "agrees"


def test_every_case_agrees_or_is_refused_for_its_reason(cases: dict[str, Case]) -> None:
    found = {name: outcome(case) for name, case in cases.items()}
    refused = {name: reason for reason, names in REFUSED.items() for name in names}
    others = {name: said for name, said in found.items() if said != "agrees" and name not in refused}
    assert others.keys() == FOUR_DIGITS | LENGTH_NOT_ROUNDED, others
    assert {name: found.get(name) for name in refused} == refused
    assert len(found) - len(refused) >= FEWEST


@pytest.mark.parametrize("name", sorted(LENGTH_NOT_ROUNDED))
def test_lengths_are_rounded_as_onnxruntime_does(cases: dict[str, Case], name: str) -> None:
    model, feed = cases[name].model, cases[name].inputs
    assert disagreement(run_in_torch(model, feed), run(model, feed)) is None


@pytest.mark.parametrize("name", sorted(FOUR_DIGITS))
def test_rounded_numbers_are_met_as_far_as_they_go(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    (found,) = run_in_torch(in_range(case.model), case.inputs)
    assert abs(found - case.expected[0]).max() <= 1e-4  # one of the last digit, since some are cut and not rounded


def test_every_operator_of_onnx_itself_has_a_case(cases: dict[str, Case]) -> None:
    seen = {(node.domain, node.op_type) for case in cases.values() for node in case.model.graph.node}
    own = {(domain, name) for domain, name in OPERATORS if not domain}
    # Global pooling by a norm has no case; test_training_parity.py compares it with onnxruntime.
    assert own - seen == {("", "GlobalLpPool")}
    assert all(onnx.defs.has(name) for _, name in own)
