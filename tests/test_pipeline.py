"""Compression end to end: what is written, what is reported, and what a second run makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_examples import build, gaussian, low_rank_rows, mlp, run, save

from rankfold import pipeline
from rankfold.errors import ModelError, OutputError, PlanError
from rankfold.passes.model_file import load_model
from rankfold.pipeline import Options, Result, compress
from rankfold.values import Feed

QUICK = Options(latency_rounds=0, allocation="uniform")
TOTAL = 32 * 64 + 64 * 16  # parameters of the two weights


def samples(count: int = 300, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return rows with twelve strong directions among 32, a mean, and a little of everything."""
    rows = low_rank_rows(count, 32, 12, seed=1, offset=1.0)
    return {"x": rows + gaussian(count, 32, seed=seed + 2, scale=0.05)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp(tmp_path_factory.mktemp("base") / "mlp.onnx")


@pytest.fixture(scope="module")
def half(base: Path) -> Result:
    folder = base.parent
    return compress(base, samples(), keep=0.5, output=folder / "half.onnx",
                    options=replace(QUICK, held_out_to=folder / "held.npz"))  # fmt: skip


def held_out(path: Path) -> np.ndarray:
    with np.load(path) as file:
        return np.concatenate([file[name] for name in sorted(file.files)])


def test_the_result_is_smaller_and_runs(base: Path, half: Result) -> None:
    report = half.report
    assert report.changed
    assert (report.linear_parameters.before, report.plan.parameters_before) == (TOTAL, TOTAL)
    assert report.linear_parameters.after <= TOTAL // 2
    initializers = onnx.load(half.path).graph.initializer
    matrices = sum(int(np.prod(t.dims)) for t in initializers if len(t.dims) == 2)
    assert matrices == report.linear_parameters.after
    assert report.parameters.before == TOTAL + 64 + 16
    assert report.parameters.after == sum(int(np.prod(t.dims)) for t in initializers)
    assert (report.size_bytes.before, report.size_bytes.after) == (base.stat().st_size, half.path.stat().st_size)
    assert (report.source_digest, report.output_digest) == (load_model(base).digest, load_model(half.path).digest)
    onnx.checker.check_model(str(half.path), full_check=True)


def test_the_discrepancy_is_that_of_the_held_out_rows(base: Path, half: Result) -> None:
    assert half.held_out is not None
    rows = held_out(half.held_out)
    assert len(rows) == half.report.held_out_samples == 60
    assert half.report.calibration_samples == 240
    before, after = (run(path, {"x": rows})[0].astype(np.float64) for path in (base, half.path))
    (output,) = half.report.discrepancy.outputs
    # The same float32 outputs, batched otherwise: their roundings of 6e-8 against a distance of some percent.
    assert output.relative_l2 == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-3, abs=0)
    assert output.relative_l2 > 1e-3


def test_predicted_and_measured_errors_are_those_of_the_rows(base: Path, half: Result) -> None:
    assert half.held_out is not None
    rows, everything = held_out(half.held_out), samples()["x"]
    kept = {row.tobytes() for row in rows}
    calibration = np.stack([row for row in everything if row.tobytes() not in kept])
    assert len(calibration) == 240
    (site, *_) = half.report.sites
    assert (site.name, site.op_type, site.rows, site.centred, site.damping) == ("fc1", "MatMul", 240, True, 0.0)
    for part, stated in ((calibration, site.predicted_error), (rows, site.measured_error)):
        before, after = (run(path, {"x": part}, "hb")[0].astype(np.float64) for path in (base, half.path))
        mean = run(base, {"x": calibration}, "hb")[0].astype(np.float64).mean(axis=0)
        # Float32 sums (6e-8 · 240 rows at the most) against errors of some percent.
        error = ((after - before) ** 2).sum() / ((before - mean) ** 2).sum()
        assert stated == pytest.approx(error, rel=1e-3, abs=0)
    # Rows from one source: 240 rows for 32 features, so the basis is not far from as good on others.
    assert site.measured_error < 2 * site.predicted_error


def test_the_self_check_holds(half: Result) -> None:
    check = half.report.self_check
    assert check is not None
    assert check.held_out <= check.tolerance
    assert check.unseen <= check.tolerance
    assert check.tolerance < 1e-3  # a fold that is wrong is off by far more


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("lack", ["dead features", "few directions"])
def test_the_self_check_holds_where_directions_were_never_seen(lack: str, dtype: str, tmp_path: Path) -> None:
    kind = {"float": np.float32, "double": np.float64}[dtype]
    text = f"g ({dtype}[n,32] x) => ({dtype}[n,48] y) {{ [fc] h = MatMul(x, w) y = Add(h, b) }}"
    weights = {"w": gaussian(32, 48).astype(kind), "b": gaussian(48).astype(kind)}
    x = samples()["x"].astype(kind)
    if lack == "dead features":
        x[:, ::3] = 0
    else:
        x = x[:, :8] @ gaussian(8, 32).astype(kind)
    path = save(build(text, weights), tmp_path / "m.onnx")
    check = compress(path, {"x": x}, keep=0.5, options=QUICK).report.self_check
    assert check is not None
    assert check.unseen <= check.tolerance
    assert check.held_out <= check.tolerance


def test_a_second_run_changes_nothing(half: Result, tmp_path: Path) -> None:
    again = compress(half.path, samples(), keep=0.5, output=tmp_path / "again.onnx", options=QUICK)
    assert not again.report.changed
    assert again.path.read_bytes() == half.path.read_bytes()
    assert again.report.linear_parameters.before == TOTAL
    assert again.report.linear_parameters.after == half.report.linear_parameters.after
    assert again.report.self_check is None


def test_keeping_everything_changes_nothing(base: Path, tmp_path: Path) -> None:
    result = compress(base, samples(), keep=1.0, output=tmp_path / "same.onnx", options=QUICK)
    assert not result.report.changed
    assert result.path.read_bytes() == base.read_bytes()
    assert [output.max_abs for output in result.report.discrepancy.outputs] == [0.0]


def test_two_runs_give_the_same_bytes(base: Path, half: Result, tmp_path: Path) -> None:
    other = compress(base, samples(), keep=0.5, output=tmp_path / "other.onnx", options=QUICK)
    assert other.path.read_bytes() == half.path.read_bytes()
    assert other.plan == half.plan


def test_a_smaller_share_goes_on_from_a_folded_model(base: Path, tmp_path: Path) -> None:
    first = compress(base, samples(), keep=0.75, output=tmp_path / "1.onnx", options=replace(QUICK, exclude=("fc2",)))
    assert [line.site for line in first.plan.folded] == ["fc1"]
    assert first.plan.fixed_parameters == 64 * 16
    # fc1 keeps 8 · 96; with 8 · 80 of fc2 that is .46.
    second = compress(first.path, samples(), keep=0.5, output=tmp_path / "2.onnx", options=QUICK)
    assert [line.site for line in second.plan.folded] == ["fc2"]
    assert second.report.linear_parameters.before == TOTAL
    assert second.plan.fixed_dense_parameters == 32 * 64
    scan = pipeline.analyze(second.path)
    assert scan.folded_before == 2
    assert scan.foldable_parameters == TOTAL
    with pytest.raises(PlanError, match=r"a kept share of 0.1 cannot be reached: .* were folded before"):
        compress(second.path, samples(), keep=0.1, output=tmp_path / "3.onnx", options=QUICK)
    assert not (tmp_path / "3.onnx").exists()


def test_excluded_weights_count_in_the_share(base: Path, tmp_path: Path) -> None:
    options = replace(QUICK, exclude=("fc2",))
    result = compress(base, samples(), keep=0.7, output=tmp_path / "o.onnx", options=options)
    assert result.report.linear_parameters.before == TOTAL
    assert 1024 + 8 * (32 + 64) <= result.report.linear_parameters.after <= 0.7 * TOTAL
    assert [(s.node, s.reason) for s in result.report.skipped] == [("fc2", "excluded by the pattern 'fc2'")]
    with pytest.raises(PlanError, match="cannot be reached"):
        compress(base, samples(), keep=0.5, output=tmp_path / "o.onnx", options=options)


def test_a_given_plan_is_followed_and_predicted_anew(base: Path, half: Result, tmp_path: Path) -> None:
    ranks = {"fc1": 5, "fc2": None}
    chosen = (replace(line, rank=ranks[line.site], predicted_error=0.9) for line in half.plan.sites)
    lines = tuple(replace(line, form="pivoted") if line.rank else line for line in chosen)
    plan = replace(half.plan, sites=lines, made_by="by hand")
    result = compress(base, samples(), plan=plan, output=tmp_path / "o.onnx", options=QUICK)
    assert [line.rank for line in result.plan.sites] == [5, None]
    assert 0 < result.plan.sites[0].predicted_error < 0.9
    assert result.plan.sites[1].predicted_error == 0
    assert result.report.settings["made_by"] == "by hand"
    shapes = {t.name: list(t.dims) for t in onnx.load(result.path).graph.initializer}
    assert shapes["fc1/down"] == [32 - 5, 5]  # pivoted, as the plan says
    assert shapes["fc1/up"] == [5, 64]
    assert "w2" in shapes


def test_energy_is_kept_at_every_site(base: Path, tmp_path: Path) -> None:
    result = compress(base, samples(), energy=0.9, output=tmp_path / "o.onnx", options=QUICK)
    assert result.report.changed
    assert all(site.predicted_error <= 0.1 + 1e-12 for site in result.report.sites)  # 1 - .9 rounds


def test_the_result_lies_beside_the_model_by_default(tmp_path: Path) -> None:
    result = compress(mlp(tmp_path / "net.v2.onnx"), samples(), keep=0.5, options=QUICK)
    assert result.path == tmp_path / "net.v2.folded.onnx"
    assert {path.name for path in tmp_path.iterdir()} == {"net.v2.onnx", "net.v2.folded.onnx"}


def test_a_model_is_not_overwritten_by_its_own_result(tmp_path: Path) -> None:
    path = mlp(tmp_path / "m.onnx")
    before = path.read_bytes()
    (tmp_path / "link.onnx").symlink_to(path)
    for output in (path, tmp_path / "link.onnx"):
        with pytest.raises(OutputError, match="the result would replace a file that it is made of; give another path"):
            compress(path, samples(), keep=0.46, output=output, options=QUICK)
    assert path.read_bytes() == before


def test_a_model_without_sites_is_passed_on(tmp_path: Path) -> None:
    path = save(build("g (float[n,4] x) => (float[n,4] y) { y = Relu(x) }", {}), tmp_path / "m.onnx")
    feeds: list[Feed] = [{"x": gaussian(1, 4, seed=seed)} for seed in range(5)]
    result = compress(path, feeds, keep=0.5, options=QUICK)
    assert not result.report.changed
    assert result.report.sites == ()
    assert result.path.read_bytes() == path.read_bytes()


def test_an_output_without_numbers_is_left_out_and_told(tmp_path: Path) -> None:
    model = build(
        "g (float[n,32] x) => (float[n,16] y) { y = MatMul(x, w) }", {"w": gaussian(32, 4) @ gaussian(4, 16, seed=1)}
    )
    model.graph.node.append(onnx.helper.make_node("SequenceConstruct", ["y"], ["listed"]))
    kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, None))
    model.graph.output.append(onnx.helper.make_value_info("listed", kind))
    onnx.save(model, tmp_path / "m.onnx")
    rows = [{"x": row[None]} for row in gaussian(64, 32, scale=1.0)]
    done = compress(tmp_path / "m.onnx", rows, keep=0.8, options=Options(latency_rounds=0))
    assert [output.name for output in done.report.discrepancy.outputs] == ["y"]
    assert "output 'listed' holds no numbers and was not compared" in done.report.warnings
    del model.graph.output[0]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"none of its outputs \(listed\) holds numbers"):
        compress(tmp_path / "m.onnx", rows, keep=0.8)
