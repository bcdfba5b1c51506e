"""The executor beside onnxruntime: `python -m benchmarks.executor_parity [--work DIR] [--rounds N] [--quick]`.

Runs every model at hand in both and reports the largest difference of an output, relative to the largest number in it:
the shipped networks, the DINOv2 backbone, a made-up text transformer, small networks from both of torch's exporters,
and the networks that come with onnx, their constant weights replaced by random ones. Then times the executor's forward
and backward pass beside that of the network in torch that was exported. Rewrites `results/executor.json` and the table
in the README; `--quick` takes the shipped networks alone and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import ModelProto, helper, numpy_helper, version_converter

from benchmarks import dinov2, synthetic_transformer
from benchmarks.common import markdown, write_results
from benchmarks.conformance.backend import light_cases
from benchmarks.conformance.exported import export
from benchmarks.conformance.networks import NETWORKS
from rankfold.errors import ModelError
from rankfold.models import demo
from rankfold.models.networks import REFERENCES
from rankfold.models.networks import build as network_of
from rankfold.runtime_calib.threads import available_cpus
from rankfold.training.executor import build
from rankfold.training.tensors import from_array
from rankfold.values import Feed

BATCH = 64  # of the timing, as of the README's other times
_IMAGES = 16
_SMALL = "small networks by both of torch's exporters"
_SHIPPED = {
    "vit-fashion": ("embedded ViT", demo.embedded_model),
    "resnet-fashion": ("embedded ResNet", demo.embedded_resnet),
}
_LIGHT_OPSET, _LIGHT_IR = 17, 8  # onnx's own networks are older than what the executor takes


@dataclass(frozen=True)
class Subject:
    """A model and what it is fed; models of one `group` share a line."""

    group: str
    model: ModelProto
    feed: Feed


@dataclass(frozen=True)
class Parity:
    """What came out: `difference` is None where the executor refused the model with `refusal`."""

    group: str
    nodes: int
    operators: int
    difference: float | None
    refusal: str = ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and time everything, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for the models, kept; default: a temporary one")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(available_cpus())
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        found = [parity(subject) for subject in (shipped() if chosen.quick else subjects(work))]
    times = {name: _slowdown(name, chosen.rounds) for name in _SHIPPED}
    if chosen.quick:
        print(table(found, times))
        return
    groups = {
        group: {
            "models": len(lines),
            "nodes": sum(line.nodes for line in lines),
            "operators": max(line.operators for line in lines),
            "largest_relative_difference": max(line.difference for line in lines if line.difference is not None),
        }
        for group, lines in _grouped(found).items()
    }
    content: dict[str, Any] = {
        "torch": torch.__version__,
        "agreement": groups,
        "refused": sorted({line.refusal for line in found if line.refusal}),
        "forward_and_backward_at_batch_64": times,
    }
    write_results("executor", content, table(found, times))


def subjects(work: Path) -> Iterator[Subject]:
    """Yield every model at hand."""
    yield from shipped()
    images = dinov2.images("t10k", 2)
    yield Subject("DINOv2 ViT-S/14 backbone", onnx.load(dinov2.backbone(work)), {dinov2.INPUT: images})
    yield _text_transformer(work)
    yield from _exported(work)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases' own
        cases = list(light_cases())
    for case in cases:
        yield Subject("networks that come with onnx, random weights", _with_weights(case.model), case.inputs)


def shipped() -> Iterator[Subject]:
    """Yield the networks of the package, on test images."""
    with np.load(demo.test_data()) as archive:
        images = archive["image"][:_IMAGES]
    for name, path in _SHIPPED.values():
        yield Subject(name, onnx.load(path()), {"image": images})


def parity(subject: Subject) -> Parity:
    """Run a model both ways."""
    model = subject.model
    counts = (len(model.graph.node), len({node.op_type for node in model.graph.node}))
    try:
        module = build(model)
    except ModelError as error:
        return Parity(subject.group, *counts, None, str(error))
    with torch.no_grad():
        made = module({name: from_array(value) for name, value in subject.feed.items()})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(list(made), subject.feed)
    pairs = zip(made.values(), expected, strict=True)
    return Parity(subject.group, *counts, max(_difference(mine.numpy(), theirs) for mine, theirs in pairs))


def table(found: Sequence[Parity], times: dict[str, float]) -> str:
    """Return both tables."""
    head = ("executor beside onnxruntime", "models", "nodes", "largest relative difference")
    rows = []
    for group, lines in _grouped(found).items():
        worst = max(line.difference for line in lines if line.difference is not None)
        rows.append((group, str(len(lines)), f"{sum(line.nodes for line in lines):,}", f"{worst:.1e}"))
    head_of_times = ("forward and backward, batch 64", "time, the network's own in torch = 1")
    timed = [(_SHIPPED[name][0], f"{factor:.2f}") for name, factor in times.items()]
    return markdown(head, rows) + "\n\n" + markdown(head_of_times, timed)


def _grouped(found: Sequence[Parity]) -> dict[str, list[Parity]]:
    groups: dict[str, list[Parity]] = {}
    for line in found:
        if not line.refusal:
            groups.setdefault(line.group, []).append(line)
    return groups


def _difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        raise SystemExit(f"{mine.dtype}{list(mine.shape)} for {theirs.dtype}{list(theirs.shape)}")
    away = np.abs(mine.astype(np.float64) - theirs).max(initial=0.0)
    return float(away / max(np.abs(theirs).max(initial=0.0), np.finfo(np.float32).tiny))


def _text_transformer(work: Path) -> Subject:
    shape = synthetic_transformer.shape_of(0.05, width=128)  # 50 MB
    path = work / "text.onnx"
    synthetic_transformer.write_transformer(path, shape)
    tokens = synthetic_transformer.token_ids(shape, samples=3, tokens=17)
    return Subject("made-up text transformer", onnx.load(path), {synthetic_transformer.INPUT: tokens})


def _exported(work: Path) -> Iterator[Subject]:
    path = work / "exported.onnx"
    for network in NETWORKS.values():
        for exporter in network.exporters:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporters'
                feed = export(network, exporter, path)[0]
            yield Subject(_SMALL, onnx.load(path), feed)


def _with_weights(model: ModelProto) -> ModelProto:
    """Return a model of today's opset whose weights are random, scaled so that layers neither grow nor shrink.

    In onnx's files each weight is one number, made by a ConstantOfShape; those of one axis stay so.
    """
    newer = version_converter.convert_version(model, _LIGHT_OPSET)
    newer.ir_version = max(newer.ir_version, _LIGHT_IR)
    random = np.random.default_rng(0)
    known = {tensor.name: tensor for tensor in newer.graph.initializer}
    for node in newer.graph.node:
        shape = numpy_helper.to_array(known[node.input[0]]) if node.op_type == "ConstantOfShape" else ()
        if len(shape) > 1:
            weight = random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
            value = numpy_helper.from_array(weight.astype(np.float32))
            node.CopyFrom(helper.make_node("Constant", [], node.output, node.name, value=value))
    return newer


def _slowdown(name: str, rounds: int) -> float:
    """Return what a forward and backward pass through the graph takes, that of the network itself being 1."""
    model = onnx.load(_SHIPPED[name][1]())
    weights = [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    graph, network = build(model, trainable=weights), network_of(REFERENCES[name].shape).eval()
    images = torch.rand(BATCH, 1, 28, 28)
    passes: list[Callable[[], torch.Tensor]] = [
        lambda: network(images),
        lambda: graph({"image": images})["logits"],
    ]
    seconds = [[_seconds(forward) for forward in passes] for _ in range(rounds + 1)][1:]  # the first warms up
    own, ours = (statistics.median(part) for part in zip(*seconds, strict=True))
    return ours / own


def _seconds(forward: Callable[[], torch.Tensor]) -> float:
    began = time.perf_counter()
    forward().square().mean().backward()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
