"""A quick part of what `python -m benchmarks.conformance` runs whole: no torch, no converters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks import common
from benchmarks.conformance import __main__ as command
from benchmarks.conformance import worker
from benchmarks.conformance.backend import VARIANTS, check_case, model_cases, node_cases
from benchmarks.conformance.check import Example, disagreement
from benchmarks.conformance.freezing import Case, frozen
from benchmarks.conformance.outcome import Outcome, plain_reason
from benchmarks.conformance.parts import Job
from benchmarks.conformance.summary import summary, table
from benchmarks.conformance.texts import TEXTS, check_text
from onnx import helper, numpy_helper

# Modules of onnx's own cases: what multiplies, and each way in which a value goes in or out of a model.
_OPERATORS = (
    *("matmul", "gemm", "conv", "convtranspose", "einsum", "lstm", "gru", "rnn", "qlinearmatmul", "deformconv"),
    *("if_", "loop", "scan", "sequenceinsert", "optionalgetelement", "cast", "stringnormalizer", "split", "where"),
    *("transpose", "reshape", "constant", "identity", "relu", "softmax", "clip", "dropout", "bernoulli"),
)
_QUICK_TEXTS = (
    "MatMul, Add",
    "weight on the left, Add",
    "Gemm, alpha and beta",
    "behind Transpose",
    "behind Cast",
    "Split chain",
    "shared by two",
    "tied embedding",
    "experts",
    "FusedMatMul",
    "Conv 3x3, strides, pads, dilations, bias",
    "If, Loop",
)


def test_onnx_own_cases_go_through(tmp_path: Path) -> None:
    cases = [*node_cases(_OPERATORS), *model_cases()]
    found = [check_case(case, variant, tmp_path) for case in cases for variant in VARIANTS]
    outcomes = [outcome for outcome in found if outcome is not None]
    assert [outcome.as_json() for outcome in outcomes if outcome.failed] == []
    run = [outcome for outcome in outcomes if outcome.status != "not run"]
    assert len(run) > 200
    assert sum(outcome.status == "folded" for outcome in run) >= 24
    assert all(outcome.detail for outcome in outcomes if outcome.status == "refused")


@pytest.mark.parametrize("name", _QUICK_TEXTS)
def test_hand_written_graphs_are_folded_or_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    outcome = check_text(name, TEXTS[name], tmp_path)
    assert not outcome.failed, outcome.as_json()
    assert outcome.folds or outcome.skips


def _product() -> Case:
    values = np.arange(6, dtype=np.float32)
    inputs = {"a": values.reshape(2, 3), "b": values.reshape(3, 2)}
    shown = [helper.make_tensor_value_info(name, 1, array.shape) for name, array in inputs.items()]
    result = inputs["a"] @ inputs["b"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"])], "g", shown, [helper.make_tensor_value_info("y", 1, [2, 2])]
    )
    opset = helper.make_opsetid("", 17)
    return Case("product", helper.make_model(graph, opset_imports=[opset], ir_version=9), inputs, [result], 1e-3, 1e-7)


def test_freezing_takes_the_weight_out_of_the_inputs(tmp_path: Path) -> None:
    for left, weight in ((False, "b"), (True, "a")):
        closed = frozen(_product(), left=left)
        assert closed is not None
        assert [tensor.name for tensor in closed.model.graph.initializer] == [weight]
        np.testing.assert_array_equal(
            numpy_helper.to_array(closed.model.graph.initializer[0]), _product().inputs[weight]
        )
        assert weight not in closed.inputs
        assert weight not in {value.name for value in closed.model.graph.input}
    outcome = check_case(_product(), "frozen", tmp_path)
    assert outcome is not None
    assert (outcome.status, outcome.folds) == ("folded", {"MatMul": 1})


def test_wrong_outputs_are_told(tmp_path: Path) -> None:
    example = Example(tmp_path / "m.onnx", {}, [], 1e-3, 1e-7)
    one, away = np.ones(3, np.float32), np.array([1, 1, 1.1], np.float32)
    assert disagreement([one], [one], example) is None
    assert "0.1 away" in str(disagreement([one], [away], example))
    assert "float64[3] for float32[3]" in str(disagreement([one], [one.astype(np.float64)], example))
    assert "float32[1, 3]" in str(disagreement([one], [one[None]], example))
    assert disagreement([one], [], example) == "0 outputs for 1"
    assert disagreement([[one], None], [[one], None], example) is None
    assert disagreement([[one]], [[away]], example) is not None
    assert disagreement([np.array(["a"])], [np.array(["b"])], example) == "output 0: other values"
    nan = np.array([np.nan, 1], np.float32)
    assert disagreement([nan], [nan.copy()], example) is None
    assert disagreement([nan], [np.ones(2, np.float32)], example) is not None


def test_a_case_that_breaks_the_library_is_noted_as_crashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("benchmarks.conformance.check.write_model", broken)
    outcome = check_case(_product(), "as it is", tmp_path)
    assert outcome is not None
    assert outcome.failed
    assert "planted" in outcome.detail


def _entries() -> list[dict[str, object]]:
    folded = Outcome("a, frozen", "folded", folds={"MatMul behind Cast": 2}, figures={"kept": 0.5})
    bad = Outcome("b", "folded", folds={"Gemm": 1}, unexplained=["graph.name: 'g' became 'h'"]).judged()
    refused = Outcome("c", "refused", "/tmp/x.onnx: input 'i' is bad", skips={"Conv: grouped": 3})
    return [{"job": "j", **outcome.as_json()} for outcome in (folded, bad, refused, Outcome("d", "not run", "why"))]


def test_the_summary_counts_and_names_failures() -> None:
    found = summary({"node": _entries()})
    assert found["parts"]["node"] == {"all": 4, "folds": 2, "folded": 1, "not run": 1, "refused": 1, "unfaithful": 1}
    assert found["folds by pattern"] == {"MatMul behind Cast": 2}
    assert found["skips by reason"] == {"Conv: grouped": 3}
    assert found["refusals by reason"] == {"input … is bad": 1}
    assert found["failures"] == ["b: unfaithful: graph.name: 'g' became 'h'"]
    assert found["linear cases folded frozen"] == 1
    assert found["models"] == [
        {"model": "a, frozen", "status": "folded", "folds": {"MatMul behind Cast": 2}, "kept": 0.5}
    ]
    assert table(found).splitlines()[2] == "| onnx's operator cases | 3 | 1 | 2 | 1 | 1 |"


def test_reasons_lose_the_names_of_one_model() -> None:
    assert plain_reason("weight 'w1' has shape [2, 3]") == "weight … has shape […]"
    assert plain_reason("in 12 groups") == "in n groups"


def test_a_worker_logs_what_it_does_and_does_nothing_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[str] = []

    def note(name: str) -> list[Outcome]:
        ran.append(name)
        return [Outcome(name)]

    jobs = [Job(name, lambda _, name=name: note(name)) for name in ("one", "two", "three")]  # type: ignore[misc]
    monkeypatch.setattr(worker, "jobs", lambda _: iter(jobs))
    worker.main(["node", "0", "2", str(tmp_path)])
    worker.main(["node", "0", "2", str(tmp_path)])
    assert ran == ["one", "three"]
    log = worker.read_log(tmp_path / worker.log_name("node", 0))
    assert [entry.get("case") for entry in log if "status" in entry] == ["one", "three"]


def test_a_process_that_dies_costs_one_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The worker is a script that kills itself at its second job, as a crash of the runtime would."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "path = f'{sys.argv[4]}/{sys.argv[1]}.{sys.argv[2]}.jsonl'\n"
        "done = open(path).read() if os.path.exists(path) else ''\n"
        "log = open(path, 'a')\n"
        "for name in 'abc':\n"
        '    if f\'"begun": "{name}"\' in done:\n'
        "        continue\n"
        "    log.write(json.dumps({'begun': name}) + '\\n')\n"
        "    log.flush()\n"
        "    if name == 'b':\n"
        "        os.kill(os.getpid(), 11)\n"
        "    log.write(json.dumps({'job': name, 'case': name, 'status': 'folded'}) + '\\n')\n"
        "    log.write(json.dumps({'ended': name}) + '\\n')\n"
    )
    monkeypatch.setattr(command, "WORKER", [str(script)])
    monkeypatch.setattr(command, "PROCESSES", 1)
    assert command.main(["--only", "node", "--work", str(tmp_path)]) == 1
    entries = worker.read_log(tmp_path / "node.0.jsonl")
    assert [(entry["case"], entry["status"]) for entry in entries if "status" in entry] == [
        ("a", "folded"),
        ("b", "crashed"),
        ("c", "folded"),
    ]


def test_only_a_whole_run_rewrites_the_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "_part", lambda part, _: iter([{"case": part, "status": "folded", "folds": {}}]))
    monkeypatch.setattr(common, "README", tmp_path / "README.md")
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    (tmp_path / "README.md").write_text("<!-- conformance: begin -->\n<!-- conformance: end -->\n")
    assert command.main(["--only", "node"]) == 0
    assert not (tmp_path / "results").exists()
    assert command.main(["--work", str(tmp_path / "work")]) == 0
    assert json.loads((tmp_path / "results" / "conformance.json").read_text())["failures"] == []
    assert "hand-written graphs" in (tmp_path / "README.md").read_text()


def test_every_text_is_a_sound_model() -> None:
    from benchmarks.conformance.texts import build

    for name, text in TEXTS.items():
        model = build(text)
        assert model.graph.output, name
        if not any(node.domain == "com.microsoft" for node in model.graph.node):
            onnx.checker.check_model(model)
