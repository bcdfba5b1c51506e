"""What the data shows of a site, as much as any rival asks for: moments of both sides, and mean absolute inputs.

Moments are collected by rankfold's own capture and so on the same rows as rankfold's. The mean absolute input of each
feature is summed here, out of the graph, over the same calibration samples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from rankfold import Options
from rankfold.capture import capture
from rankfold.passes.model_file import Model, input_specs, output_names
from rankfold.passes.side_moments import SideMoments, side_moments
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.reading import open_reading
from rankfold.runtime_calib.sessions import open_session
from rankfold.values import Feed, FloatArray, Moments, Request


@dataclass(frozen=True)
class Evidence:
    """One site's rows, as sums.

    Attributes:
        inputs: Moments of `x`.
        outputs: Moments of `z = x W`, from the node's outputs, without the bias.
        mean_absolute: E|x| of each input feature, (in,).
    """

    inputs: SideMoments
    outputs: SideMoments
    mean_absolute: FloatArray


def collect_evidence(model: Model, scan: Scan, data: Path, options: Options) -> dict[str, Evidence]:
    """Return the evidence of every site.

    Args:
        model: The model.
        scan: Its sites; each shows both its sides, as those of MatMul and Gemm do, and has one matrix.
        data: Calibration data; rankfold's held-out share of it is left out.
        options: As for `compress`.
    """
    _check(scan)
    sides: dict[str, tuple[Site, Site]] = {
        site.name: (replace(site, side="input"), replace(site, side="output")) for site in scan.sites
    }
    both = replace(scan, sites=tuple(version for pair in sides.values() for version in pair))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        moments = capture(model, both, data, work / "held_out.npz", work=work, options=options).moments
        absolute = _mean_absolute(model, scan, data, options)
    return {
        name: Evidence(
            _side(model, scan, read, moments), _side(model, scan, written, moments), _over_uses(read, absolute)
        )
        for name, (read, written) in sides.items()
    }


def _check(scan: Scan) -> None:
    for site in scan.sites:
        if site.sides != {"input", "output"} or site.blocks > 1:
            raise SystemExit(f"{site.name}: the rivals are written for plain MatMul and Gemm; leave it out")


def _side(model: Model, scan: Scan, site: Site, moments: dict[Request, Moments]) -> SideMoments:
    return side_moments(model, scan.index, site, moments)


def _over_uses(site: Site, sums: dict[Request, tuple[FloatArray, float]]) -> FloatArray:
    found = [sums[request] for request in site.requests]
    total: FloatArray = np.sum([absolute for absolute, _ in found], axis=0)
    return total / sum(rows for _, rows in found)


def _mean_absolute(model: Model, scan: Scan, data: Path, options: Options) -> dict[Request, tuple[FloatArray, float]]:
    """Return the sum of |x| over the rows that count, (in,), and their number, per activation."""
    requests = list(dict.fromkeys(use.request("input") for site in scan.sites for use in site.uses))
    tensors = list(dict.fromkeys(request.tensor for request in requests))
    addition = onnx.ModelProto()
    inputs = {spec.name for spec in input_specs(model)}
    known = inputs.union(output_names(model))
    addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    session = open_session(model.path, addition=addition.SerializeToString())
    sums: dict[Request, tuple[FloatArray, float]] = {}
    for feed in calibration_batches(model, data, options):
        wanted = [name for name in tensors if name not in inputs]
        values = feed | dict(zip(wanted, session.run(wanted, feed), strict=True))
        for request in requests:
            rows = np.abs(counted_rows(values[request.tensor], request, feed.get(options.mask or "")))
            absolute, count = sums.get(request, (0.0, 0.0))
            sums[request] = absolute + rows.sum(axis=0, dtype=np.float64), count + len(rows)
    return sums


def counted_rows(
    value: NDArray[np.generic], request: Request, mask: NDArray[np.generic] | None
) -> NDArray[np.floating]:
    """Return the rows (n, features) of an activation that are no padding; without a mask's axes all of them are."""
    turned = np.moveaxis(value, request.feature_axis, -1)
    if mask is not None and turned.shape[:-1] == mask.shape:
        turned = turned[mask != 0]
    return turned.reshape(-1, turned.shape[-1])


def calibration_batches(model: Model, data: Path, options: Options) -> Iterator[Feed]:
    """Yield the batches that a capture sums."""
    with tempfile.TemporaryDirectory() as folder:
        _, reading = open_reading(data, input_specs(model), Path(folder) / "held_out.npz")
        yield from reading.batches(options)
