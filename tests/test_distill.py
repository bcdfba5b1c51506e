"""Training toward given outputs: it helps, repeats itself, and goes on after a kill as if there had been none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from heal_examples import folded_network, initializers, rows
from onnx_examples import run

from rankfold.errors import ModelError
from rankfold.training.distill import Schooled, Schooling, distill
from rankfold.training.executor import build as graph_module
from rankfold.training.judging import distance, label_loss
from rankfold.training.pupil import Course, Lesson
from rankfold.training.widened import widened

BATCH, STEPS = 32, 12


def course_of(base: Path) -> Course:
    """Return a course of a few hundred rows toward a model's outputs."""
    feed, held = rows(BATCH * STEPS), rows(128, seed=200)
    wanted, kept = run(base, feed)[0], run(base, held)[0]

    def lessons(number: int, start: int) -> Iterator[Lesson]:
        order = np.random.default_rng((7, number)).permutation(len(wanted))
        for at in range(start * BATCH, len(order), BATCH):
            chosen = order[at : at + BATCH]
            yield Lesson({"x": feed["x"][chosen]}, {"y": wanted[chosen]})

    return Course(lessons, STEPS, lambda: [Lesson(held, {"y": kept})], {"y": "relative_l2"})


def trained(candidate: Path, course: Course, schooling: Schooling) -> Schooled:
    names = [name for name, tensor in initializers(candidate).items() if tensor.data_type == onnx.TensorProto.FLOAT]
    return distill(onnx.load(candidate), course, schooling, trainable=names)


def same(first: Schooled, second: Schooled) -> bool:
    assert first.arrays.keys() == second.arrays.keys()
    return all(np.array_equal(array, second.arrays[name]) for name, array in first.arrays.items())


def test_it_lowers_the_error_and_repeats_itself(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    course = course_of(base)
    first, second = (trained(candidate, course, Schooling(6)) for _ in range(2))
    # A quarter of what the fold lost: rank 8 of rows with ten directions leaves room, and more steps would take more.
    assert first.after < 0.75 * first.before
    assert first.after == min(loss for _, loss in first.looks)
    assert same(first, second)


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    course = course_of(base)
    file = tmp_path / "training.pt"
    whole = trained(candidate, course, Schooling(3))

    class Killed(BaseException):
        pass

    def watched(limit: int) -> Callable[[Iterable[int], int], Iterator[int]]:
        def steps(numbers: Iterable[int], _: int) -> Iterator[int]:
            for number in numbers:
                if number >= limit:
                    raise Killed
                yield number

        return steps

    for limit in (10, 20):
        with pytest.raises(Killed):
            trained(candidate, course, Schooling(3, watched=watched(limit), file=file))
    assert file.exists()
    ended = trained(candidate, course, Schooling(3, file=file))
    assert same(whole, ended)
    assert ended.looks == whole.looks
    assert ended.steps == whole.steps


def test_the_start_comes_back_where_nothing_helps(tmp_path: Path) -> None:
    base, _ = folded_network(tmp_path)
    start = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in initializers(base).items()}
    found = trained(base, course_of(base), Schooling(4, rates=(1e-2,)))
    assert found.after <= found.before < 1e-10  # it is the original, but for the rounding of two libraries
    assert found.steps < 4 * STEPS  # and it gave up early
    assert all(np.array_equal(array, start[name]) for name, array in found.arrays.items())


def test_tensors_inside_the_graph_can_be_wanted_too(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    course = course_of(base)

    def lessons(number: int, start: int) -> Iterator[Lesson]:
        for lesson in course.lessons(number, start):
            inside = run(base, dict(lesson[0]), "n")[0].astype(np.float16)
            yield Lesson(lesson[0], {**lesson[1], "n": inside})

    with_middle = replace(course, lessons=lessons, middles=("n",))
    found = trained(candidate, with_middle, Schooling(4))
    assert found.after < found.before


def test_an_original_that_is_asked_at_every_step_teaches_the_same(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    course = course_of(base)

    def lessons(number: int, start: int) -> Iterator[Lesson]:
        for feed, _, _ in course.lessons(number, start):
            yield Lesson(feed, None)

    asked = replace(course, lessons=lessons, original=graph_module(onnx.load(base)))
    first, second = (trained(candidate, one, Schooling(4)) for one in (course, asked))
    assert second.after < second.before
    assert second.after == pytest.approx(first.after, rel=1e-3)  # two libraries' rounding, through 48 steps


def test_an_original_without_finite_numbers_teaches_nothing(tmp_path: Path) -> None:
    base, candidate = folded_network(tmp_path)
    course = course_of(base)
    broken = onnx.load(base)
    shift = next(tensor for tensor in broken.graph.initializer if tensor.name == "shift")
    shift.CopyFrom(onnx.numpy_helper.from_array(np.full(48, np.nan, np.float32), "shift"))
    asked = replace(
        course,
        lessons=lambda number, start: (Lesson(feed, None) for feed, _, _ in course.lessons(number, start)),
        original=graph_module(broken),
    )
    with pytest.raises(ModelError, match="'y' of the original is not of finite numbers"):
        trained(candidate, asked, Schooling(1))


def test_distances() -> None:
    reference = torch.tensor([[1.0, 2.0], [0.0, 2.0]])
    assert distance("relative_l2", reference, reference * 1.1).item() == pytest.approx(0.01, rel=1e-4)  # float32
    assert distance("kl", reference, reference + 3).item() == pytest.approx(0.0, abs=1e-6)  # logits may be moved
    half = torch.tensor([[0.5, 0.5]])
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert distance("kl_probabilities", half, torch.tensor([[0.25, 0.75]])).item() == pytest.approx(expected, rel=1e-5)
    assert label_loss(half, torch.tensor([1]), probabilities=True).item() == pytest.approx(np.log(2), rel=1e-5)
    assert label_loss(torch.zeros(1, 4), torch.tensor([1]), probabilities=False).item() == pytest.approx(np.log(4))


def test_half_precision_is_widened_throughout(tmp_path: Path) -> None:
    _, candidate = folded_network(tmp_path, half=True)
    wide = widened(onnx.load(candidate))
    onnx.checker.check_model(wide, full_check=True)
    assert {t.data_type for t in wide.graph.initializer} == {onnx.TensorProto.FLOAT}
    feed = rows(16, half=True)
    narrow = run(candidate, feed)[0].astype(float)
    found = run(wide, {"x": feed["x"].astype(np.float32)})[0]
    # Some ten roundings of half precision, 5e-4 each, of numbers up to the largest.
    assert np.abs(found - narrow).max() < 1e-2 * np.abs(narrow).max()
