"""Nodes that spell out one operator become that operator, and nothing else does."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from executor_examples import HEADS, as_array, disagreement, run_in_torch
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from onnx_examples import build as model_of
from onnx_examples import gaussian, run

from rankfold.training import settled
from rankfold.training.executor import GraphModule, build
from rankfold.values import Feed

CONSTANTS = {
    "two": np.float32(2),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "tiny": np.float32(1e-5),
    "root": np.float32(np.sqrt(2)),
    "inverse": np.float32(np.sqrt(0.5)),
    "quarter": np.float32(0.25),
    "four": np.float32(4),
    "scale": 1 + gaussian(8, scale=0.2),
    "shift": gaussian(8, seed=1),
    "mask": gaussian(1, 1, 6, 6, seed=2, scale=1.0),
    "w": gaussian(8, 8, seed=3),
}
NORM = """
  m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) s = {square} v = ReduceMean<axes=[-1]>(s) e = Add(v, tiny)
  r = Sqrt(e) q = Div(d, r) p = Mul({product}) y = Add({sum})
"""
NORMS = [
    NORM.format(square="Pow(d, two)", product="q, scale", sum="p, shift"),
    NORM.format(square="Mul(d, d)", product="scale, q", sum="shift, p"),
]
GELUS = [
    "a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
    "a = Mul(inverse, x) b = Erf(a) c = Add(one, b) d = Mul(half, x) y = Mul(c, d)",
]
ATTENTIONS = [
    "k = Transpose<perm=[0, 1, 3, 2]>(x) s = MatMul(x, k) p = Softmax<axis=-1>(s) y = MatMul(p, x)",
    """k = Transpose<perm=[0, 1, 3, 2]>(x) s = MatMul(x, k) t = Mul(s, quarter) u = Add(mask, t)
       p = Softmax<axis=-1>(u) y = MatMul(p, x)""",
    """k = Transpose<perm=[0, 1, 3, 2]>(x) s = MatMul(x, k) r = Div(s, two) t = Mul(r, half) u = Add(t, mask)
       p = Softmax<axis=-1>(u) y = MatMul(p, x)""",
]


def graph(body: str) -> ModelProto:
    used = {name: np.asarray(value) for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", body)}
    return model_of(f"g (float[2,3,6,8] x) => (float[2,3,6,8] y) {{ {body} }}", used)


def operators(module: GraphModule) -> Counter[str]:
    return Counter(step.name.split()[0] for step in module._program.steps)


def rows() -> Feed:
    return {"x": gaussian(2, 3, 6, 8, seed=5, scale=1.0)}


@pytest.mark.parametrize(
    ("body", "title", "nodes"),
    [
        *((body, "LayerNormalization", 1) for body in NORMS),
        *((body, "Gelu", 1) for body in GELUS),
        *((body, "Attention", 2) for body in ATTENTIONS),
    ],
)
def test_it_is_found_and_means_the_same(body: str, title: str, nodes: int) -> None:
    model = graph(body)
    found = operators(build(model))
    assert found[title] == 1
    assert found.total() == nodes
    assert disagreement(run_in_torch(model, rows()), run(model, rows())) is None


@pytest.mark.parametrize(
    ("body", "change"),
    [
        (NORMS[0], ("d, two", "d, four")),
        (NORMS[0], ("axes=[-1]>(s)", "axes=[-2]>(s)")),  # the mean over another axis
        (NORMS[0], ("Sub(x, m)", "Sub(m, x)")),
        (NORMS[0], ("Add(p, shift)", "Add(p, d)")),  # what is inside is read once more
        (GELUS[0], ("Div(x, root)", "Div(x, two)")),
        (GELUS[0], ("Mul(x, c)", "Mul(a, c)")),
        (GELUS[0], ("Mul(d, half)", "Mul(d, quarter)")),
        (ATTENTIONS[0], ("Softmax<axis=-1>", "Softmax<axis=-2>")),
    ],
)
def test_what_only_looks_like_it_is_left(body: str, change: tuple[str, str]) -> None:
    assert change[0] in body
    model = graph(body.replace(*change))
    assert not {"LayerNormalization", "Gelu", "Attention"} & operators(build(model)).keys()
    # onnxruntime takes any power for a square here, and is no measure.
    expected = ReferenceEvaluator(model).run(None, dict(rows()))
    assert disagreement(run_in_torch(model, rows()), expected) is None


def test_a_tensor_that_is_asked_for_stays() -> None:
    model = graph(NORMS[0])
    module = build(model, also=["q"])
    assert operators(module)["LayerNormalization"] == 0
    assert module({"x": torch.from_numpy(rows()["x"])})["q"].shape == (2, 3, 6, 8)


def test_a_number_that_trains_stays_a_number() -> None:
    module = build(graph(GELUS[0]), trainable=["half"])
    assert operators(module)["Gelu"] == 0
    module({"x": torch.from_numpy(rows()["x"])})["y"].sum().backward()
    assert module.parameters_by_name["half"].grad is not None


def test_scales_and_shifts_get_the_same_gradient() -> None:
    x = torch.from_numpy(rows()["x"])
    whole, parted = (build(graph(NORMS[0]), trainable=["scale", "shift"], also=also) for also in ([], ["q"]))
    for module in (whole, parted):
        module({"x": x})["y"].square().sum().backward()
    for name, parameter in whole.parameters_by_name.items():
        other = parted.parameters_by_name[name].grad
        assert parameter.grad is not None
        assert other is not None
        torch.testing.assert_close(parameter.grad, other, rtol=1e-4, atol=1e-4)


def test_what_follows_from_shapes_is_computed_once_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build(model_of(HEADS, {}))
    shapes = [(2, 5), (3, 5), (2, 5), (3, 5)]
    found = [module({"x": torch.ones(*shape, 12)})["y"] for shape in shapes]
    assert len(module._settled) == 2
    assert all(not step.on_cpu for kept in module._settled.values() for step in kept.steps)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    monkeypatch.setattr(settled, "MOST_KEPT", 0)  # too much to keep: computed again each time
    again = build(model_of(HEADS, {}))
    assert all(torch.equal(again({"x": torch.ones(2, 5, 12)})["y"], found[0]) for _ in range(2))
    assert not again._settled


DECIDED_BY_NUMBERS = {
    "shape": "n = NonZero(x) y = Shape(n)",
    "size": "n = NonZero(x) y = Size(n)",
    "range": "m = ReduceMax<keepdims=0>(x) c = Cast<to=7>(m) y = Range(zero, c, one)",
    "made of a shape": "c = Cast<to=7>(x) y = ConstantOfShape(c)",
    "reshaped": "c = Cast<to=7>(x) o = ConstantOfShape(c) r = Reshape(o, c) y = Shape(r)",
    "cut": "c = Cast<to=7>(x) s = Slice(x, first, c, first) y = Shape(s)",
    "computed": "n = NonZero(x) m = Neg(n) s = Shape(m) y = Gather(s, one)",
}


@pytest.mark.parametrize("name", list(DECIDED_BY_NUMBERS))
def test_what_follows_from_numbers_is_computed_for_each_feed(name: str) -> None:
    body = DECIDED_BY_NUMBERS[name]
    known = {"zero": np.array(0), "one": np.array(1), "first": np.array([0])}
    length = 1 if name == "cut" else 2
    text = f"g (float[{length}] x) => (int64 y) {{ {body} }}"
    model = model_of(text, {part: value for part, value in known.items() if re.search(rf"\b{part}\b", body)})
    model.graph.output[0].ClearField("type")
    module = build(model)
    for numbers in ([2, 3], [4, 0], [2, 3]):
        feed = {"x": np.array(numbers[:length], np.float32)}
        found = [as_array(value) for value in module({"x": torch.from_numpy(feed["x"])}).values()]
        assert disagreement(found, run(model, feed, "y")) is None


def test_many_constant_lengths_are_known_lengths() -> None:
    parts = ", ".join(f"p{number}" for number in range(70))
    text = f"g (float[N,70] x) => (int64[2] y) {{ {parts} = Split<axis=1>(x, lengths) y = Shape(p3) }}"
    module = build(model_of(text, {"lengths": np.ones(70, np.int64)}))
    assert module({"x": torch.ones(3, 70)})["y"].tolist() == [3, 1]
    assert len(module._settled) == 1


def test_what_is_picked_by_numbers_has_a_known_shape() -> None:
    text = "g (float[N,8] x, int64[N] ids) => (int64[2] y) { p = Gather(x, ids) y = Shape(p) }"
    module = build(model_of(text, {}))
    module({"x": torch.ones(3, 8), "ids": torch.tensor([0, 2, 1])})
    assert len(module._settled) == 1


def test_what_inference_mode_computed_is_not_kept_for_gradients() -> None:
    module = build(graph(NORMS[0]), trainable=["scale"])
    x = torch.from_numpy(rows()["x"])
    with torch.inference_mode():
        module({"x": x})
    module({"x": x})["y"].sum().backward()
    assert module.parameters_by_name["scale"].grad is not None
