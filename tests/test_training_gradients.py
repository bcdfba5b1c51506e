"""Gradients through the executor, beside torch's of the same network and beside finite differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_examples import build as model_of

from rankfold.models.export import export_network
from rankfold.models.networks import Shape
from rankfold.models.resnet import ResNet, ResNetShape
from rankfold.models.vit import ViT, ViTShape
from rankfold.training.executor import build

TINY_VIT = ViTShape(patch_size=7, width=16, depth=2, heads=2)
TINY_RESNET = ResNetShape(widths=(4, 8), depths=(1, 1))
# The same float32 sums in another order, a few layers deep, forward and back: some hundred roundings of 6e-8 of the
# largest number of a gradient.
ROUNDING = 1e-5


def networks() -> list[tuple[torch.nn.Module, Shape]]:
    torch.manual_seed(0)
    made = [(ViT(TINY_VIT), TINY_VIT), (ResNet(TINY_RESNET), TINY_RESNET)]
    for network, _ in made:
        for value in network.parameters():  # all different, so that none can stand for another
            torch.nn.init.normal_(value, std=0.3)
    return [(network.eval(), shape) for network, shape in made]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("network", "shape"), networks(), ids=["vit", "resnet"])
def test_gradients_are_those_of_the_network_that_was_exported(
    network: torch.nn.Module, shape: Shape, tmp_path: Path
) -> None:
    export_network(network, shape, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    weights = [value.name for value in model.graph.initializer if value.data_type == onnx.TensorProto.FLOAT]
    module = build(model, trainable=weights)
    image = torch.rand(3, 1, 28, 28)
    pictures = [image.clone().requires_grad_(), image.clone().requires_grad_()]
    goal = torch.tensor([1, 4, 7])
    for logits in (network(pictures[0]), module({"image": pictures[1]})["logits"]):
        torch.nn.functional.cross_entropy(logits, goal).backward()
    assert relative(pictures[1].grad, pictures[0].grad) < ROUNDING
    compared = 0
    for name, value in network.named_parameters():
        ours = module.parameters_by_name.get(name)
        if ours is None:
            continue
        turned = value.ndim == 2 and torch.equal(ours.T, value)  # as a MatMul has it
        if turned or torch.equal(ours, value):  # no convolution into which the exporter multiplied a normalisation
            compared += 1
            assert relative(ours.grad.T if turned else ours.grad, value.grad) < ROUNDING, name
    assert compared == {ViT: len(list(network.parameters())), ResNet: 2}[type(network)]


# What is made of several torch operators, or of an unusual one; float64, so that finite differences mean something.
TEXTS = {
    "Resize, linear": "y = Resize(x, , scales)",
    "Resize, cubic": 'y = Resize<mode="cubic", antialias=1, coordinate_transformation_mode="asymmetric">(x, , scales)',
    "Pad, reflect": 'y = Pad<mode="reflect">(x, pads)',
    "Pad, constant": "y = Pad(x, pads)",
    "AveragePool": "y = AveragePool<kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1], ceil_mode=1>(x)",
    "MaxPool": "y = MaxPool<kernel_shape=[2, 2], pads=[1, 0, 0, 1]>(x)",
    "LpPool": "y = LpPool<kernel_shape=[2, 2], dilations=[2, 1]>(x)",
    "ConvTranspose": "y = ConvTranspose<pads=[0, 1, 1, 0], strides=[2, 2]>(x, k)",
    "Slice backwards": "y = Slice(x, starts, ends, axes, steps)",
    "ScatterND": "e = Exp(x) y = ScatterND(e, places, rows)",
    "GatherND": "y = GatherND(x, places)",
    "TopK": "y, i = TopK(x, two)",
    "CumSum": "y = CumSum<exclusive=1, reverse=1>(x, one)",
    "GroupNormalization": "y = GroupNormalization<num_groups=1>(x, pair, pair)",
    "InstanceNormalization": "y = InstanceNormalization(x, pair, pair)",
    "LRN": "y = LRN<size=2, alpha=0.5>(x)",
    "LpNormalization": "y = LpNormalization<axis=1>(x)",
    "Attention": "y = Attention<is_causal=1, softcap=2.0>(x, x, x)",
    "Clip, Where": "c = Clip(x, low) w = Greater(c, zero) y = Where(w, c, x)",
    "Selu, Pow": "s = Selu(x) d = Softplus(s) y = Pow(d, cube)",
}
CONSTANTS = {
    "scales": np.array([1, 1, 1.5, 0.75], np.float32),
    "pads": np.array([0, 0, 1, 2, 0, 0, 2, 0]),
    "starts": np.array([-1, 3]),
    "ends": np.array([-9, 0]),
    "axes": np.array([2, 3]),
    "steps": np.array([-2, -1]),
    "places": np.array([[0, 1], [0, -2]]),
    "rows": np.arange(24.0).reshape(2, 3, 4),
    "two": np.array([2]),
    "one": np.array(2),
    "pair": np.array([0.5, 1.5]),
    "low": np.array(-0.3),
    "zero": np.array(0.0),
    "cube": np.array(3.0),
    "k": np.random.default_rng(1).standard_normal((2, 3, 2, 3)),
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_gradients_are_finite_differences(name: str) -> None:
    words = TEXTS[name].replace("(", " ").replace(")", " ").replace(",", " ").split()
    chosen = {part: value for part, value in CONSTANTS.items() if part in words}
    model = model_of(
        f"g (double[1,2,3,4] x) => (double y) {{ {TEXTS[name]} }}",
        {},
        header='<ir_version: 10, opset_import: ["" : 23]>',
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, part) for part, value in chosen.items())
    trained = [part for part, value in chosen.items() if value.dtype == np.float64]
    module = build(model, trainable=trained)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 3, 4))).requires_grad_()

    def output(value: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return module({"x": value})["y"]

    # torch's own tolerances, for steps of 1e-6 in float64
    assert torch.autograd.gradcheck(output, (x, *module.parameters()), eps=1e-6, atol=1e-5, rtol=1e-3)
