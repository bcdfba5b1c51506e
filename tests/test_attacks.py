"""Adversarial examples: the published algorithms, on classifiers where they are known, and laws of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from attack_examples import (
    CURVED,
    FEATURES,
    LINEAR,
    SOFTMAX,
    Array,
    by_the_book,
    curved_weights,
    linear_weights,
    model_of,
    samples,
    softmax_gradient,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from rankfold.training.attacks import Attack, Classifier, Sought, adversarial, input_gradients, sample_losses
from rankfold.training.ball import Norm, Room
from rankfold.training.executor import build

UNIT = Room(np.zeros(1), np.ones(1), np.ones(1))
FGSM = Attack("linf", steps=1, step=1.0, scattered=False)
# Three float32 roundings of numbers up to 1: of the step, of the change, and of the sum.
ROUNDED = 3 * float(np.finfo(np.float32).eps)


def classifier(model: ModelProto, scores: str = "y", *, probabilities: bool = False) -> Classifier:
    also = (scores,) if scores not in {value.name for value in model.graph.output} else ()
    return Classifier(build(model, also=also), "x", scores, probabilities)


LINEAR_ONE = classifier(model_of(LINEAR, linear_weights()))
CURVED_ONE = classifier(model_of(CURVED, curved_weights()))


def sought(
    attacked: Classifier, count: int, attack: Attack, radius: float, *, seed: int = 0, batch: int | None = None
) -> Sought:
    rows, labels = samples(count)
    randoms = [np.random.default_rng((seed, start)) for start in range(attack.restarts)]
    parts = [
        adversarial(
            attacked,
            {"x": rows[at : at + (batch or count)]},
            labels[at : at + (batch or count)],
            attack=attack,
            radius=radius,
            room=UNIT,
            randoms=randoms,
        )
        for at in range(0, count, batch or count)
    ]
    return Sought(np.concatenate([part.examples for part in parts]), np.concatenate([part.losses for part in parts]))


def test_gradients_are_those_of_the_closed_form() -> None:
    rows, labels = samples(20)
    wanted = softmax_gradient(rows.astype(float), linear_weights()["w"].astype(float), labels)
    # sums of FEATURES and CLASSES products of numbers of a few units in float32
    np.testing.assert_allclose(input_gradients(LINEAR_ONE, {"x": rows}, labels), wanted, rtol=0, atol=1e-5)


def test_fgsm_is_one_step_of_the_sign() -> None:
    rows, labels = samples(50)
    gradient = softmax_gradient(rows.astype(float), linear_weights()["w"].astype(float), labels)
    wanted = np.clip(rows + 0.1 * np.sign(gradient), 0, 1)
    np.testing.assert_allclose(sought(LINEAR_ONE, 50, FGSM, 0.1).examples, wanted, rtol=0, atol=ROUNDED)


@pytest.mark.parametrize(("norm", "steps", "step"), [("linf", 7, 0.3), ("l2", 1, 1.0), ("l2", 7, 0.3)])
def test_pgd_is_the_algorithm_of_the_book(norm: Norm, steps: int, step: float) -> None:
    rows, labels = samples(50)
    weight = linear_weights()["w"].astype(float)
    wanted = by_the_book(rows.astype(float), weight, labels, norm=norm, eps=0.2, steps=steps, step=step)
    found = sought(LINEAR_ONE, 50, Attack(norm, steps, step, scattered=False), 0.2)
    # under L2 every step passes on the gradient's own rounding, about 1e-6 of its direction
    np.testing.assert_allclose(found.examples, wanted, rtol=0, atol=1e-5)


def test_a_library_finds_the_same_examples() -> None:
    library = pytest.importorskip("torchattacks")
    rows, labels = samples(50)

    class Wrapped(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return CURVED_ONE.module({"x": x})["y"]

    wrapped, given_ = Wrapped().eval(), (torch.from_numpy(rows), torch.from_numpy(labels))
    pairs = [
        (library.FGSM(wrapped, eps=0.1), FGSM, 0.1),
        (library.PGD(wrapped, eps=0.1, alpha=0.03, steps=5, random_start=False), Attack("linf", 5, 0.3, 1, False), 0.1),
    ]
    for reference, attack, radius in pairs:
        wanted = reference(*given_).numpy()
        np.testing.assert_allclose(sought(CURVED_ONE, 50, attack, radius).examples, wanted, rtol=0, atol=ROUNDED)


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    radius=st.floats(0, 3),
    steps=st.integers(1, 4),
    step=st.floats(0.01, 3),
    seed=st.integers(0, 99),
    scattered=st.booleans(),
)
def test_examples_lie_in_the_ball_and_are_valid(
    norm: Norm, radius: float, steps: int, step: float, seed: int, scattered: bool
) -> None:
    rows, _ = samples(10)
    found = sought(CURVED_ONE, 10, Attack(norm, steps, step, 1, scattered), radius, seed=seed).examples
    change = (found - rows).astype(float)
    far = np.abs(change).max(axis=1) if norm == "linf" else np.linalg.norm(change, axis=1)
    # a length adds the roundings of its coordinates
    assert (far <= radius + ROUNDED * max(1.0, radius) * np.sqrt(FEATURES)).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_radii_and_bounds_count_per_channel() -> None:
    rows, labels = samples(30)
    unit, low, high = np.array([[4.0, 1, 1, 1, 1, 0.5]]), np.zeros((1, FEATURES)), np.full((1, FEATURES), 1.0)
    high[0, 1] = 0.5
    found = adversarial(LINEAR_ONE, {"x": rows}, labels, attack=FGSM, radius=0.1, room=Room(low, high, unit)).examples
    gradient = softmax_gradient(rows.astype(float), linear_weights()["w"].astype(float), labels)
    wanted = np.clip(rows + 0.1 * unit * np.sign(gradient), low, np.maximum(high, rows))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4 * ROUNDED)  # steps of up to .4


def test_a_radius_of_zero_changes_no_bit() -> None:
    rows, _ = samples(20)
    for attack in (FGSM, Attack("linf", 3, 0.5), Attack("l2", 3, 0.5)):
        assert np.array_equal(sought(CURVED_ONE, 20, attack, 0.0).examples, rows)


def test_attacks_raise_the_loss_and_more_steps_more() -> None:
    rows, labels = samples(100)
    before = sample_losses(CURVED_ONE, {"x": rows}, labels)
    one = sought(CURVED_ONE, 100, FGSM, 0.1).losses
    many = sought(CURVED_ONE, 100, Attack("linf", 20, 0.125), 0.1).losses
    assert before.mean() < one.mean() <= many.mean()
    assert failures(many_rows(20)) >= failures(sought(CURVED_ONE, 100, FGSM, 0.1).examples)


def many_rows(steps: int) -> Array:
    found: Array = sought(CURVED_ONE, 100, Attack("linf", steps, 2.5 / steps), 0.1).examples
    return found


def failures(rows: Array) -> int:
    weights = curved_weights()
    answers = (np.tanh(rows @ weights["w1"]) @ weights["w2"]).argmax(axis=1)
    return int((answers != samples(len(rows))[1]).sum())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_seeds_decide_the_bits_however_samples_are_batched(norm: Norm) -> None:
    attack = Attack(norm, 3, 0.5, restarts=2)
    first = sought(CURVED_ONE, 12, attack, 0.2, seed=3)
    assert np.array_equal(first.examples, sought(CURVED_ONE, 12, attack, 0.2, seed=3).examples)
    assert not np.array_equal(first.examples, sought(CURVED_ONE, 12, attack, 0.2, seed=4).examples)
    apart = sought(CURVED_ONE, 12, attack, 0.2, seed=3, batch=5).examples
    # products of other batch sizes may add up in another order; a start of its own would lie .1 away
    assert np.median(np.abs(apart - first.examples)) < 1e-5


def test_of_several_starts_the_worst_counts() -> None:
    one = sought(CURVED_ONE, 100, Attack("linf", 3, 0.5, restarts=1), 0.1)
    four = sought(CURVED_ONE, 100, Attack("linf", 3, 0.5, restarts=4), 0.1)
    assert failures(four.examples) >= failures(one.examples)
    assert (four.losses > one.losses).any()


def starts(norm: Norm) -> Array:
    rows = np.full((4000, FEATURES), 0.5, np.float32)
    labels = np.zeros(4000, np.int64)
    randoms: Sequence[np.random.Generator] = [np.random.default_rng(0)]
    attack = Attack(norm, 0, 1.0)
    found = adversarial(LINEAR_ONE, {"x": rows}, labels, attack=attack, radius=0.4, room=UNIT, randoms=randoms)
    change: Array = (found.examples - rows) / np.float32(0.4)
    return change


def test_starts_are_even_in_the_ball() -> None:
    # The share of a ball within half its radius is 2⁻ᵈ; 4 deviations of a binomial of 4,000.
    near = (np.linalg.norm(starts("l2"), axis=1) < 0.5).mean()
    share = 0.5**FEATURES
    assert abs(near - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    assert abs((np.abs(starts("linf")) < 0.5).mean() - 0.5) < 4 * np.sqrt(0.25 / (4000 * FEATURES))


def test_probabilities_give_the_gradients_of_their_logits() -> None:
    model = model_of(SOFTMAX, linear_weights())
    rows, labels = samples(20)
    wanted = input_gradients(LINEAR_ONE, {"x": rows}, labels)
    # far above where probabilities underflow, so that only float32's rounding parts the two
    found = input_gradients(classifier(model, "p", probabilities=True), {"x": rows}, labels)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert np.array_equal(input_gradients(classifier(model, "s"), {"x": rows}, labels), wanted)


def test_without_a_gradient_nothing_moves() -> None:
    rounded = "(float[N,6] x) => (float[N,3] y) { r = Round(x)  y = MatMul(r, w) }"
    rows, labels = samples(5)
    attacked = classifier(model_of(rounded, linear_weights()))
    assert not input_gradients(attacked, {"x": rows}, labels).any()
    assert np.array_equal(sought(attacked, 5, Attack("l2", 3, 1.0, scattered=False), 0.3).examples, rows)
