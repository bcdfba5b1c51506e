"""The executor as a module: what it takes, what it trains, where it computes."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from executor_examples import HEADS, as_array, disagreement, mlp, run_in_torch
from onnx import TensorProto, numpy_helper
from onnx_examples import build as model_of
from onnx_examples import gaussian, run

from rankfold.errors import ModelError
from rankfold.models import demo
from rankfold.training.executor import build

# Takes the first token, as classifiers do, and hides some of the others behind a mask made of nothing but a shape.
MASKED = """
g (float[B,T,12] x) => (float[B,12] y) <int64 zero = {0}, float low = {-9.0}> {
  s = Shape(x)
  ones = ConstantOfShape<value = bool[1] {1}>(s)
  later = Trilu<upper=0>(ones)
  masked = Where(later, x, low)
  y = Gather<axis=1>(masked, zero)
}
"""


def rows(count: int) -> np.ndarray:
    return gaussian(count, 8, seed=3, scale=1.0)


@pytest.mark.parametrize("text", [HEADS, MASKED], ids=["heads", "masked"])
@pytest.mark.parametrize("batch", [1, 5])
def test_lengths_follow_the_feed(text: str, batch: int) -> None:
    model = model_of(text, {})
    feed = {"x": gaussian(batch, 7, 12, scale=1.0)}
    assert disagreement(run_in_torch(model, feed), run(model, feed)) is None


@pytest.mark.parametrize(
    "model",
    [model_of(HEADS, {}), model_of(MASKED, {}), onnx.load(demo.embedded_model())],
    ids=["heads", "masked", "vit"],
)
def test_a_device_is_never_waited_for(model: onnx.ModelProto) -> None:
    """Tensors of the meta device have shapes and no numbers: asking for one is an error."""
    (value,) = model.graph.input
    shape = [dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim]
    (made,) = build(model).to("meta")({value.name: torch.empty(shape, device="meta")}).values()
    assert made.device.type == "meta"
    assert made.shape[0] == 3


def test_what_shapes_alone_decide_comes_out_on_the_cpu() -> None:
    made = build(model_of(HEADS, {}), also=["wanted"]).to("meta")({"x": torch.empty(2, 5, 12, device="meta")})
    assert made["wanted"].tolist() == [2, 5, 3, 4]


def test_tensors_inside_come_out_where_asked_for() -> None:
    module = build(mlp(), also=["h", "w1", "y"])
    made = module({"x": torch.from_numpy(rows(3))})
    assert list(made) == ["y", "h", "w1"]
    expected = run(mlp(), {"x": rows(3)}, "h")
    assert disagreement([as_array(made["h"])], expected) is None


def test_only_what_is_named_trains() -> None:
    module = build(mlp(), trainable=["w1", "b"])
    assert list(module.parameters_by_name) == ["w1", "b"]
    assert len(list(module.parameters())) == len(module.state_dict()) == 2
    module({"x": torch.from_numpy(rows(6))})["y"].square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in module.parameters())


def test_a_step_down_the_gradient_lowers_the_loss_and_leaves_the_model_alone() -> None:
    model = mlp()
    before = model.SerializeToString()
    module = build(model, trainable=["w1", "w2", "b"])
    feed, goal = {"x": torch.from_numpy(rows(32))}, torch.from_numpy(gaussian(32, 4, seed=9, scale=1.0))
    step = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        step.zero_grad()
        loss = (module(feed)["y"] - goal).square().mean()
        losses.append(loss.item())
        loss.backward()
        step.step()
    assert losses[-1] < 0.9 * losses[0]
    assert model.SerializeToString() == before


def test_names_with_dots_and_of_methods_are_parameters_too() -> None:
    model = mlp()
    names = {"w1": "forward", "w2": "a.b"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    module, again = (build(model, trainable=["forward", "a.b"]) for _ in range(2))
    with torch.no_grad():
        for value in module.parameters():
            value.add_(1.0)
    again.load_state_dict(module.state_dict())
    feed = {"x": torch.from_numpy(rows(2))}
    assert torch.equal(module(feed)["y"], again(feed)["y"])


def test_weights_given_apart_take_the_place_of_those_elsewhere() -> None:
    model = mlp()
    there = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match=r"file beside the model.*initializer 'w1'"):
        build(model)
    made = build(model, weights={"w1": there})({"x": torch.from_numpy(rows(2))})
    assert disagreement([as_array(made["y"])], run(mlp(), {"x": rows(2)})) is None


def test_values_are_let_go_after_their_last_use() -> None:
    text = "g (float[N] x) => (float[N] y) { a = Exp(x) b = Neg(a) c = Abs(b) y = Sqrt(c) }"
    module = build(model_of(text, {}))
    alive: list[int] = []
    seen: list[weakref.ref[torch.Tensor]] = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = function(*args, **(kwargs or {}))
            seen.append(weakref.ref(made))
            alive.append(sum(value() is not None for value in seen))
            return made

    gc.disable()
    try:
        feed = {"x": torch.ones(4)}
        with torch.no_grad(), Counting():
            module(feed)
    finally:
        gc.enable()
    assert alive == [1, 2, 2, 2]  # what is read and what is made
