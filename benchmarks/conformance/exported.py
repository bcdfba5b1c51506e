"""What both of torch's exporters make of the small networks, as jobs."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks.conformance.compressing import Subject, check_made
from benchmarks.conformance.networks import NETWORKS, Network, lower
from benchmarks.conformance.outcome import Outcome
from benchmarks.conformance.parts import Job
from rankfold.values import Feed

_BATCH, _FEEDS = 4, 16


def jobs(part: str) -> Iterator[Job]:  # noqa: ARG001
    """Yield one job per network and exporter."""
    for name, network in NETWORKS.items():
        for exporter in network.exporters:
            yield Job(
                f"torch/{name}, {exporter}",
                lambda folder, name=name, exporter=exporter: [_check(name, exporter, folder / "model.onnx")],  # type: ignore[misc]
            )


def _check(name: str, exporter: str, path: Path) -> Outcome:
    title = f"torch/{name}, {exporter}"
    return check_made(title, lambda: Subject(title, path, export(NETWORKS[name], exporter, path)))


def export(network: Network, exporter: str, path: Path) -> list[Feed]:
    """Write a network as ONNX and return feeds for it."""
    torch.manual_seed(0)
    module = lower(network.make()).eval()
    inputs = network.inputs(_BATCH)
    names = [f"x{place}" for place in range(len(inputs))]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if exporter == "dynamo":
            _by_dynamo(module, network, inputs, names, path)
        else:
            _by_torchscript(module, network, inputs, names, path)
    batches = (network.inputs(_BATCH) for _ in range(_FEEDS))
    return [{name: value.numpy() for name, value in zip(names, batch, strict=True)} for batch in batches]


def _by_dynamo(
    module: nn.Module, network: Network, inputs: tuple[torch.Tensor, ...], names: list[str], path: Path
) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shapes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if network.dynamic else None
    torch.onnx.export(module, inputs, path, dynamo=True, input_names=names, dynamic_shapes=shapes, verbose=False)


def _by_torchscript(
    module: nn.Module, network: Network, inputs: tuple[torch.Tensor, ...], names: list[str], path: Path
) -> None:
    scripted = torch.jit.script(module) if type(module).__name__.startswith("Scripted") else module
    axes = {name: {0: "batch"} for name in names} if network.dynamic else None
    torch.onnx.export(scripted, inputs, path, dynamo=False, input_names=names, dynamic_axes=axes, opset_version=17)
