"""`rankfold.robustness.attack`: accuracy under attack, transfer, signs of masking and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from attack_examples import (
    FEATURES,
    SOFTMAX,
    curved_weights,
    linear_weights,
    model_of,
    samples,
    softmax_gradient,
    write_case,
)

from rankfold.errors import CalibrationDataError, ModelError, OptionsError, RankfoldError
from rankfold.masking import Place, fewer_by_chance, signs_of_masking
from rankfold.options import Options
from rankfold.pipeline import compress
from rankfold.robustness import Robustness, attack
from rankfold.shares import Share
from rankfold.threat import DEFAULT_SHARES, Threat

REST = "a = Tanh(h)  y = MatMul(a, w2)"
QUICK = Threat(eps=(0.0, 0.05, 0.2), steps=5, clip=(0.0, 1.0))


@pytest.fixture(autouse=True)
def folder(working_folder: Path) -> Path:
    write_case(working_folder)
    return working_folder


def attacked(*candidates: str, threat: Threat = QUICK, model: str = "model.onnx") -> Robustness:
    return attack(model, "data.npz", candidates=candidates, threat=threat, options=Options(batch_size=32))


def test_attacks_lower_accuracy_and_larger_ones_lower_it_more() -> None:
    found = attacked()
    with np.load("data.npz") as archive:
        rows, labels = archive["x"], archive["labels"]
    answers = onnxruntime.InferenceSession("model.onnx").run(None, {"x": rows})[0].argmax(axis=1)
    clean = found.models[0].clean
    assert clean == Share(int((answers == labels).sum()), 60)
    for name in ("fgsm", "pgd"):
        counts = [found.share(Place(name, eps, 0, 0)).count for eps in (0.0, 0.05, 0.2)]
        assert counts[0] == clean.count
        assert counts[0] > counts[1] > counts[2]
    assert found.share(Place("pgd", 0.2, 0, 0)).count <= found.share(Place("fgsm", 0.2, 0, 0)).count
    assert found.models[0].flat.count == 0
    assert found.warnings == ()


def test_the_diagonal_of_transfer_is_each_model_by_itself() -> None:
    both, alone, other = attacked("near.onnx"), attacked(), attacked(model="near.onnx")
    assert len(both.robust) == 2 * 3 * 2 * 2
    for part in alone.robust:
        assert both.share(part.place) == part.right
    for part in other.robust:
        assert both.share(part.place._replace(made_on=1, scored_on=1)) == part.right
    strangers = both.share(Place("pgd", 0.2, 1, 0))
    assert both.share(Place("pgd", 0.2, 0, 0)).count <= strangers.count < both.models[0].clean.count


def test_the_same_seed_gives_the_same_figures() -> None:
    assert attacked().robust == attacked().robust


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radii_by_default_are_shares_of_the_range(norm: str) -> None:
    found = attacked(threat=Threat(attacks=("fgsm",), norm="l2" if norm == "l2" else "linf"))
    with np.load("data.npz") as archive:
        low, high = float(archive["x"].min()), float(archive["x"].max())
    assert (found.bounds.low, found.bounds.high, found.bounds.observed) == (low, high, True)
    reach = (high - low) * (np.sqrt(FEATURES) if norm == "l2" else 1)
    np.testing.assert_allclose(found.bounds.eps, [share * reach for share in DEFAULT_SHARES], rtol=1e-12)


def test_normalised_inputs_are_attacked_in_units_before_it() -> None:
    mean, std = np.linspace(0.1, 0.6, FEATURES), np.linspace(0.2, 2.0, FEATURES)
    weight = linear_weights()["w"] * std[:, None].astype(np.float32)
    onnx.save(model_of(SOFTMAX, {"w": weight}), "scaled.onnx")
    rows = ((samples(60)[0] - mean) / std).astype(np.float32)
    labels = (rows @ weight).argmax(axis=1)
    np.savez("scaled.npz", x=rows, labels=labels)
    threat = Threat(attacks=("fgsm",), eps=(0.1,), clip=(0.0, 1.0), mean=tuple(mean), std=tuple(std))
    found = attack("scaled.onnx", "scaled.npz", threat=threat)
    gradient = softmax_gradient(rows.astype(float), weight.astype(float), labels)
    moved = np.clip(rows + 0.1 / std * np.sign(gradient), -mean / std, (1 - mean) / std)
    still = ((moved @ weight).argmax(axis=1) == labels).sum()
    assert found.robust[0].right.count == still < 60
    assert found.scoring.probabilities


def test_folded_models_are_attacked_in_either_form() -> None:
    rng = np.random.default_rng(0)
    weights = {"w1": rng.standard_normal((48, 64)), "w2": rng.standard_normal((64, 32))}
    text = "(float[N,48] x) => (float[N,32] y) { h = MatMul(x, w1)  a = Tanh(h)  y = MatMul(a, w2) }"
    onnx.save(model_of(text, {name: (array / 4).astype(np.float32) for name, array in weights.items()}), "wide.onnx")
    rows = rng.uniform(0, 1, (200, 48)).astype(np.float32)
    labels = onnxruntime.InferenceSession("wide.onnx").run(None, {"x": rows})[0].argmax(axis=1)
    np.savez("wide.npz", x=rows, labels=labels)
    quick = Options(latency_rounds=0, allocation="uniform")
    plan = compress("wide.onnx", {"x": rows}, keep=0.6, output="pair.onnx", options=quick).plan
    turned = replace(plan, sites=tuple(replace(line, form="pivoted") for line in plan.sites))
    compress("wide.onnx", {"x": rows}, plan=turned, output="pivoted.onnx", options=quick)
    assert "Concat" in {node.op_type for node in onnx.load("pivoted.onnx").graph.node}
    threat = Threat(attacks=("fgsm",), eps=(0.02,), clip=(0.0, 1.0), samples=50)
    found = attack("wide.onnx", "wide.npz", candidates=("pair.onnx", "pivoted.onnx"), threat=threat)
    for number, model in enumerate(found.models):
        assert model.clean.samples == 50
        assert found.share(Place("fgsm", 0.02, number, number)).count < model.clean.count


def test_several_inputs_and_a_named_one() -> None:
    text = f"(float[N,6] x, float[N,6] z) => (float[N,3] y) {{ s = Add(x, z)  h = MatMul(s, w1)  {REST} }}"
    onnx.save(model_of(text, curved_weights()), "two.onnx")
    rows, labels = samples(20)
    np.savez("two.npz", x=rows, z=np.zeros_like(rows), labels=labels)
    with pytest.raises(OptionsError, match=r"2 of its inputs hold floats \(x \(float32\), z \(float32\)\)"):
        attack("two.onnx", "two.npz")
    found = attack("two.onnx", "two.npz", threat=Threat(input="x", eps=(0.1,)))
    assert found.scoring.input.name == "x"


WRONG: list[tuple[Threat, type[RankfoldError], str]] = [
    (Threat(input="q"), OptionsError, "there is no input 'q' to attack"),
    (Threat(output="q"), OptionsError, "there is no output 'q'"),
    (Threat(eps=(-0.1,)), OptionsError, "option eps is"),
    (Threat(eps=(float("nan"),)), OptionsError, "option eps is"),
    (Threat(clip=(1.0, 0.0)), OptionsError, "option clip is"),
    (Threat(clip=(0.0, 0.5)), CalibrationDataError, "outside of the valid 0 to 0.5"),
    (Threat(steps=0), OptionsError, "option steps is 0"),
    (Threat(samples=0), OptionsError, "option samples is 0"),
    (Threat(std=(0.0,)), OptionsError, "option std is"),
    (Threat(std=(1.0, 2.0)), OptionsError, "std has 2 numbers for an input of shape"),
    (Threat(attacks=()), OptionsError, "option attacks is"),
]


@pytest.mark.parametrize(("threat", "kind", "message"), WRONG)
def test_what_makes_no_sense_is_refused(threat: Threat, kind: type[RankfoldError], message: str) -> None:
    with pytest.raises(kind, match=message):
        attacked(threat=threat)


def test_labels_have_to_be_there_and_fit() -> None:
    rows, labels = samples(20)
    np.savez("bare.npz", x=rows)
    with pytest.raises(CalibrationDataError, match="the data has no labels; give an array `labels`"):
        attack("model.onnx", "bare.npz")
    np.savez("far.npz", x=rows, labels=labels + 1)
    with pytest.raises(CalibrationDataError, match="labels run from 1 to 3, output 'y' has 3 classes"):
        attack("model.onnx", "far.npz")


def test_models_that_cannot_be_attacked_are_refused() -> None:
    text = "(float[N,6] x) => (float[N,1] y) { y = MatMul(x, w) }"
    onnx.save(model_of(text, {"w": np.ones((6, 1), np.float32)}), "column.onnx")
    with pytest.raises(OptionsError, match="none of its outputs looks like one row of class scores per sample"):
        attack("column.onnx", "data.npz")
    onnx.save(model_of("(int64[N,6] i) => (float[N,6] y) { y = Cast<to=1>(i) }", {}), "whole.onnx")
    with pytest.raises(OptionsError, match="none of its inputs holds floats"):
        attack("whole.onnx", "data.npz")
    with pytest.raises(OptionsError, match="input 'i' holds int64; steps along gradients need floats"):
        attack("whole.onnx", "data.npz", threat=Threat(input="i"))
    onnx.save(model_of("(float[N,6] x) => (float[N,6] y) { y = Bernoulli(x) }", {}), "hard.onnx")
    with pytest.raises(ModelError, match=r"hard\.onnx: .* cannot be run in torch; missing: .*Bernoulli"):
        attack("hard.onnx", "data.npz")
    with pytest.raises(ModelError, match="its inputs and outputs are not those of"):
        attacked("whole.onnx")
    with pytest.raises(ModelError, match=r"column\.onnx: output 'y' has shape \[32, 1\] for .* 3 classes"):
        attacked("column.onnx")
    with pytest.raises(OptionsError, match="a model is given twice"):
        attacked("model.onnx")


def test_vanished_gradients_are_told() -> None:
    text = f"(float[N,6] x) => (float[N,3] y) {{ t = Mul(x, k)  r = Round(t)  h = MatMul(r, w1)  {REST} }}"
    onnx.save(model_of(text, {**curved_weights(), "k": np.full(1, 8, np.float32)}), "masked.onnx")
    found = attacked("masked.onnx")
    assert found.models[1].flat == Share(60, 60)
    assert any("the gradient by input 'x' is zero for 60 of 60 samples (100 %)" in line for line in found.warnings)
    assert any("breaks more by examples made on model.onnx than by its own" in line for line in found.warnings)


def test_signs_of_masking_are_more_than_chance() -> None:
    few, many = np.arange(100) < 50, np.arange(100) < 70
    rights = {Place("fgsm", 0.1, 0, 0): few, Place("pgd", 0.1, 0, 0): many}
    clear = (Share(0, 100),)
    (line,) = signs_of_masking(rights, ("m",), clear, "x")
    assert "one step breaks more than many steps do" in line
    assert signs_of_masking(rights | {Place("fgsm", 0.1, 0, 0): many}, ("m",), clear, "x") == ()
    (line,) = signs_of_masking({Place("pgd", 0.1, 0, 0): few, Place("pgd", 0.2, 0, 0): many}, ("m",), clear, "x")
    assert "breaks less at ε = 0.2 than at 0.1" in line
    # 3 more of 100 are chance: 3 discordant samples, 1.96 √3 = 3.4; 4 are not: 1.96 √4 = 3.9
    assert fewer_by_chance(np.arange(100) < 50, np.arange(100) < 53)
    assert not fewer_by_chance(np.arange(100) < 50, np.arange(100) < 54)


def test_intervals_are_wilsons() -> None:
    # worked by hand from Wilson's formula: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) at 8 of 10
    assert Share(8, 10).interval == pytest.approx((49.0162, 94.3318), abs=1e-3)
    assert Share(0, 10).interval[0] == 0
