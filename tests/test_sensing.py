"""Bases by the loss: better where the output makes little of what is large, told where they cannot be had."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_examples import build, gaussian, low_rank_rows, save
from search_examples import chain_data, uneven_chain

from rankfold.errors import OptionsError, RuntimeUnavailableError
from rankfold.pipeline import Options, Result, compress, frontier

UNIFORM = Options(latency_rounds=0, allocation="uniform")
WIDTH, SEEN = 64, 16


def halves(folder: Path, *, between: str = "Relu(h)") -> Path:
    """Two layers; the second reads a quarter of the first's features much more than the others, which are larger."""
    body = f"""g (float[batch,{WIDTH}] x) => (float[batch,{WIDTH}] y) {{
        [fc1] h = MatMul(x, w1)
        [act] r = {between}
        [fc2] y = MatMul(r, w2)
        }}"""
    first, second = gaussian(WIDTH, WIDTH, seed=0), gaussian(WIDTH, WIDTH, seed=1)
    first[:, SEEN:] *= 2
    second[SEEN:] *= 0.01
    return save(build(body, {"w1": first, "w2": second, "all": np.ones(WIDTH, np.bool_)}), folder / "halves.onnx")


def data() -> dict[str, np.ndarray]:
    return {"x": low_rank_rows(400, WIDTH, 60, seed=9) + gaussian(400, WIDTH, seed=10, scale=0.2)}


def folded(model: Path, options: Options, name: str = "o.onnx") -> Result:
    return compress(model, data(), keep=0.5, output=model.parent / name, options=options)


def error(result: Result) -> float:
    return result.report.discrepancy.outputs[0].relative_l2


@pytest.mark.usefixtures("gradients")
def test_what_the_output_hardly_reads_is_given_up_first(tmp_path: Path) -> None:
    model = halves(tmp_path)
    first = replace(UNIFORM, include=("fc1",))
    by_loss, by_data = folded(model, first), folded(model, replace(first, basis="data"))
    # The three quarters that the second layer hardly reads hold nearly all of the first one's energy.
    assert error(by_loss) < 0.5 * error(by_data)
    assert by_loss.plan.kept == by_data.plan.kept
    (note,) = by_loss.report.notes
    assert re.fullmatch(r"layers whose errors count by what the outputs make of them: 1 \(gradients of \d+ .*\)", note)
    check = by_loss.report.self_check
    assert check is not None
    assert max(check.held_out, check.unseen) <= check.tolerance


@pytest.mark.usefixtures("gradients")
def test_outputs_of_whole_numbers_have_no_gradient_and_hinder_none(tmp_path: Path) -> None:
    model = onnx.load(halves(tmp_path))
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("best", onnx.TensorProto.INT64, ["batch"]))
    path = save(model, tmp_path / "two.onnx")
    result = folded(path, replace(UNIFORM, basis="loss"))
    assert any("make of them: 2" in note for note in result.report.notes)
    with_none = folded(path, replace(UNIFORM, outputs=("best",)))  # then they count by their size
    assert with_none.plan.folded


@pytest.mark.usefixtures("gradients")
def test_two_runs_are_byte_equal(tmp_path: Path) -> None:
    model = halves(tmp_path)
    files = [folded(model, UNIFORM, name).path.read_bytes() for name in ("a.onnx", "b.onnx")]
    assert files[0] == files[1]


@pytest.mark.usefixtures("gradients")
def test_a_search_tries_what_gradients_say_before_it_measures(tmp_path: Path) -> None:
    output, options = tmp_path / "o.onnx", Options(latency_rounds=0)
    found = compress(uneven_chain(tmp_path), chain_data(), keep=0.5, output=output, options=options)
    uniform, *others = found.report.tried
    names = [trial.name for trial in others]
    assert uniform.name == "uniform"
    # The layers' factors differ fifty times, and gradients show that without a single plan tried.
    assert others[names.index("gradients")].loss < 0.8 * uniform.loss


@pytest.mark.usefixtures("gradients")
def test_a_frontier_goes_by_the_loss_too(tmp_path: Path) -> None:
    model = halves(tmp_path)
    by_loss, by_data = (
        frontier(model, data(), keeps=(0.5,), options=Options(basis=basis)).points[0].error  # type: ignore[arg-type]
        for basis in ("auto", "data")
    )
    assert by_loss < by_data


@pytest.mark.usefixtures("gradients")
def test_shares_of_energy_are_of_the_energy_itself(tmp_path: Path) -> None:
    found = compress(halves(tmp_path), data(), energy=0.9, output=tmp_path / "o.onnx", options=UNIFORM)
    assert found.report.notes == (
        "errors of layers count by their size alone: the basis goes by the data alone, as asked for",
    )


@pytest.mark.usefixtures("gradients")
def test_a_graph_that_torch_cannot_run_goes_by_the_data_and_says_so(tmp_path: Path) -> None:
    model = halves(tmp_path, between="Compress <axis = 1> (h, all)")
    (note,) = folded(model, UNIFORM).report.notes
    assert note.startswith("errors of layers count by their size alone: graph 'g' cannot be run in torch")
    assert "Compress" in note
    with pytest.raises(RuntimeUnavailableError, match="the basis cannot go by the loss: graph 'g' cannot be run"):
        folded(model, replace(UNIFORM, basis="loss"))


def test_without_torch_the_data_decides_and_the_report_says_so(tmp_path: Path) -> None:
    model = halves(tmp_path)
    (note,) = folded(model, UNIFORM).report.notes
    assert "torch is not installed (`pip install 'rankfold[torch]'`)" in note
    with pytest.raises(RuntimeUnavailableError, match="torch is not installed"):
        folded(model, replace(UNIFORM, basis="loss"))


@pytest.mark.usefixtures("gradients")
def test_a_model_too_large_for_the_memory_goes_by_the_data(tmp_path: Path) -> None:
    notes = folded(halves(tmp_path), replace(UNIFORM, memory_bytes=100_000)).report.notes
    assert any("larger than 0.25 of the memory that may be taken" in note for note in notes)


def test_a_basis_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="option basis is 'best'; expected 'auto' or 'loss' or 'data'"):
        folded(halves(tmp_path), replace(UNIFORM, basis="best"))  # type: ignore[arg-type]


@pytest.mark.usefixtures("gradients")
def test_a_checkpoint_goes_with_its_gradient_samples_and_changes_nothing(tmp_path: Path) -> None:
    model, kept = halves(tmp_path), tmp_path / "checkpoint"
    plain = folded(model, UNIFORM)
    noted = folded(model, replace(UNIFORM, checkpoint=kept), name="kept.onnx")
    assert plain.path.read_bytes() == noted.path.read_bytes()
    assert not kept.exists()
