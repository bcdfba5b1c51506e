"""The table of sizes and methods: what is in it, and that nothing is computed twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import candidates, common, frontier_table
from benchmarks.candidates import Bench, Candidate, Scored
from benchmarks.intervals import Measure, mean_of, relative_l2
from benchmarks.subjects import Subject
from onnx_examples import build, gaussian, low_rank_rows, save

from rankfold import Options

BODY = "g (float[N,64] x) => (float[N,64] y) { [fc1] h = MatMul(x, w1) a = Relu(h) [fc2] y = MatMul(a, w2) }"


def small(work: Path, *, fast: bool = False) -> Subject:
    """Return a subject whose rows span 24 of 64 directions."""
    work.mkdir(exist_ok=True)
    model = save(build(BODY, {"w1": gaussian(64, 64), "w2": gaussian(64, 64, seed=1)}), work / "model.onnx")
    rows = low_rank_rows(600, 64, 24, offset=0.3)
    np.savez(work / "rows.npz", x=rows[:400])
    tested = rows[400:450] if fast else rows[400:]
    reference = common.outputs(model, tested, batch=100)

    def score(candidate: Path) -> dict[str, Measure]:
        found = common.outputs(candidate, tested, batch=100)
        return {
            "relative L2": relative_l2(found, reference),
            "same sign": mean_of(((found > 0) == (reference > 0)).mean(axis=1)),
        }

    return Subject("small", model, work / "rows.npz", Options(latency_rounds=0), score)


def test_every_candidate_is_in_the_table_and_scored_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(frontier_table, "SUBJECTS", {"small": small})
    arguments = ["--work", str(tmp_path), "--subject", "small", "--keeps", "0.5", "0.33"]
    frontier_table.main(arguments)
    head, _, original, *lines = capsys.readouterr().out.rstrip().splitlines()
    assert head == "| small | kept | relative L2 | same sign | relative L2, less rankfold's |"
    assert original == "| original | 1.0000 | 0.0000 | 1.0000 |  |"
    labels = [line.split(" | ")[0] for line in lines]
    rivals = [
        f"| keep 0.50, {basis}, {ranks} ranks"
        for ranks in ("uniform", "rankfold")
        for basis in ("plain SVD", "ASVD", "SVD-LLM", "AFM")
    ]
    assert labels[:10] == ["| keep 0.50, rankfold", *rivals, "| keep 0.50, AFM, normalised energy ranks"]
    assert len(labels) == 20
    monkeypatch.setattr(candidates, "collect_evidence", lambda *_: pytest.fail("evidence collected again"))
    monkeypatch.setattr(candidates.rankfold, "compress", lambda *_, **__: pytest.fail("compressed again"))
    frontier_table.main(arguments)
    assert capsys.readouterr().out.rstrip().splitlines()[3:] == lines
    assert not list((tmp_path / "candidates").glob("*.onnx"))
    frontier_table.main([*arguments[:4], "--keeps", "0.5", "--rivals"])
    assert len(capsys.readouterr().out.rstrip().splitlines()) == 4


def test_bases_that_see_the_data_lose_less_and_ours_is_svd_llm_with_a_mean(tmp_path: Path) -> None:
    bench = Bench(small(tmp_path), tmp_path, fast=False)
    lost = {basis: bench.rival(0.33, basis, "uniform").scores["relative L2"].value for basis in candidates.RIVALS}
    assert max(lost["SVD-LLM"], lost["AFM"]) < lost["ASVD"] < lost["plain SVD"]
    ours = bench.ours(0.33).scores["relative L2"].value
    assert ours < 1.05 * min(lost.values())  # the same optimum on the calibration rows; these are others


def test_a_rival_takes_the_ranks_of_ours(tmp_path: Path) -> None:
    bench = Bench(small(tmp_path), tmp_path, fast=False)
    ours = bench.ours(0.4)
    plan = bench.plan(0.4, candidates.OURS)
    assert plan.kept == ours.kept
    assert bench.rival(0.4, "SVD-LLM", candidates.OURS).kept == ours.kept


def test_short_scores_are_kept_apart(tmp_path: Path) -> None:
    slow, fast = (Bench(small(tmp_path, fast=fast), tmp_path, fast=fast).original() for fast in (False, True))
    assert [len(scored.scores["same sign"].above) for scored in (slow, fast)] == [200, 50]


def test_a_candidate_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    subject = small(tmp_path)

    def broken(_: Path) -> dict[str, Measure]:
        raise RuntimeError("no score")

    bench = Bench(replace(subject, score=broken), tmp_path, fast=False)
    with pytest.raises(RuntimeError, match="no score"):
        bench.rival(0.5, "plain SVD", "uniform")
    assert list((tmp_path / "candidates").iterdir()) == []
    assert Bench(subject, tmp_path, fast=False).rival(0.5, "plain SVD", "uniform").kept <= 0.5


def test_scores_survive_their_files(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = {"a": mean_of(random.random(5)), "b, c": Measure(random.random(7), random.random(7), root=True)}
    written = Scored(Candidate("s", 0.5, "SVD-LLM", "uniform"), 0.49, 1234, scores)
    assert written.candidate.stem == "s.0.5.svd_llm.uniform"
    candidates.write(written, tmp_path / "s.json")
    found = candidates.read(tmp_path / "s.json")
    assert (found.candidate, found.kept, found.size_bytes) == (written.candidate, 0.49, 1234)
    for name, measure in scores.items():
        np.testing.assert_allclose(found.scores[name].above, measure.above, rtol=2**-24)  # float32
        assert found.scores[name].value == pytest.approx(measure.value, rel=1e-7)
        assert found.scores[name].root == measure.root
    assert json.loads((tmp_path / "s.json").read_text())["scores"]["b, c"]["value"] == scores["b, c"].value


def test_a_model_takes_its_place_beside_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier_table, "RESULTS", tmp_path)
    assert [row["n"] for row in frontier_table._beside([{"subject": "minilm", "n": 0}])] == [0]
    old = [{"subject": "minilm", "n": 1}, {"subject": "dinov2", "n": 2}]
    (tmp_path / "frontier.json").write_text(json.dumps({"rows": old}))
    found = frontier_table._beside([{"subject": "minilm", "n": 3}, {"subject": "minilm", "n": 4}])
    assert [row["n"] for row in found] == [2, 3, 4]
    assert [row["subject"] for row in frontier_table._beside([{"subject": "vit"}])] == ["vit", "dinov2", "minilm"]
