"""Small models for the tests: graphs as ONNX text, weights from a seeded generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

from rankfold.passes.bases import site_basis
from rankfold.passes.fold import fold
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.sites import Scan, find_sites
from rankfold.passes.write_model import write_model
from rankfold.values import Feed, Moments, RankPlan, Request, SiteRank

Array = NDArray[np.generic]


_HEADER = '<ir_version: 9, opset_import: ["" : 17]>'


def build(body: str, weights: Mapping[str, Array], *, header: str = _HEADER) -> ModelProto:
    """Return the model whose graph is `body` in ONNX text, with `weights` added as initializers."""
    model = parser.parse_model(f"{header}\n{body}")
    model.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in weights.items())
    return model


def save(model: ModelProto, path: Path) -> Path:
    """Write a model the plain way and return where it lies."""
    onnx.save(model, path)
    return path


def gaussian(*shape: int, seed: int = 0, scale: float | None = None) -> NDArray[np.float32]:
    """Return normal float32 numbers; `scale` defaults to 1/√rows, so that layers neither grow nor shrink."""
    factor = shape[0] ** -0.5 if scale is None else scale
    return (np.random.default_rng(seed).standard_normal(shape) * factor).astype(np.float32)


def low_rank_rows(rows: int, features: int, rank: int, *, seed: int = 0, offset: float = 0.0) -> NDArray[np.float32]:
    """Return rows (rows, features) float32 that span `rank` directions, moved by a constant row of size `offset`."""
    random = np.random.default_rng(seed)
    span = random.standard_normal((rows, rank)) @ random.standard_normal((rank, features)) / rank**0.5
    return (span + offset * random.standard_normal(features)).astype(np.float32)


def mlp(path: Path, *, width: int = 64, seed: int = 0) -> Path:
    """Write a two-layer perceptron: `x` (batch, 32) to `y` (batch, 16), MatMul + Add + Relu + Gemm."""
    body = """
    mlp (float[batch,32] x) => (float[batch,16] y) {
      [fc1] h = MatMul(x, w1)
      [bias1] hb = Add(h, b1)
      [act] a = Relu(hb)
      [fc2] y = Gemm(a, w2, b2)
    }
    """
    weights = {
        "w1": gaussian(32, width, seed=seed),
        "b1": gaussian(width, seed=seed + 1, scale=0.3),
        "w2": gaussian(width, 16, seed=seed + 2),
        "b2": gaussian(16, seed=seed + 3, scale=0.3),
    }
    return save(build(body, weights), path)


def opened(model: ModelProto, folder: Path, name: str = "model.onnx") -> Model:
    """Save a model and open it the way rankfold does."""
    return load_model(save(model, folder / name))


def run(model: Path | ModelProto, feed: Feed, *outputs: str) -> list[Array]:
    """Return outputs of a model in plain onnxruntime, one thread; every tensor of the graph may be asked for."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if isinstance(model, Path) and not outputs:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]).run(None, feed)
    proto = onnx.ModelProto()
    proto.CopyFrom(onnx.load(model) if isinstance(model, Path) else model)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or None, feed)  # type: ignore[no-any-return]


def rows_of(array: Array, axis: int = -1, block: int | None = None) -> NDArray[np.float64]:
    """Return a tensor, or one matrix of a stack, as rows (n, features) in float64, its features on `axis`."""
    chosen = array if block is None else array[..., block, :, :]
    turned = np.moveaxis(chosen, axis, -1)
    return turned.reshape(-1, turned.shape[-1]).astype(np.float64)


def sums(rows: NDArray[np.float64]) -> Moments:
    """Return the moments of rows (n, features), by numpy."""
    return Moments(float(len(rows)), rows.sum(axis=0), rows.T @ rows)


def collected(model: Model, scan: Scan, feed: Feed) -> dict[Request, Moments]:
    """Return what the sites ask for, by exposing each tensor and summing in numpy: no tap takes part."""
    tensors = list(dict.fromkeys(request.tensor for request in scan.requests))
    values = dict(zip(tensors, run(model.path, feed, *tensors), strict=True)) if tensors else {}
    return {r: sums(rows_of(values[r.tensor], r.feature_axis, r.block)) for r in scan.requests}


def plan_of(model: Model, scan: Scan, rank: int | None, *, pivoted: bool = False) -> RankPlan:
    """Return a plan that gives every site the same rank, None means full rank; pivoted where a site can be."""
    lines = (
        SiteRank(
            s.name,
            s.in_features,
            s.out_features,
            rank or min(s.in_features, s.out_features),
            0.0,
            s.blocks,
            "pivoted" if pivoted and s.pivots else "pair",
        )
        for s in scan.sites
    )
    return RankPlan(model.digest, "by hand", scan.fixed_parameters, scan.fixed_dense_parameters, tuple(lines))


def folded(
    model: Model,
    feed: Feed,
    rank: int | None,
    *,
    target: str = "folded.onnx",
    pivoted: bool = False,
    exclude: Sequence[str] = (),
) -> Path:
    """Fold every site at one rank on the rows of one batch, write the result and return where it lies."""
    scan = find_sites(model, exclude=exclude)
    moments = collected(model, scan, feed)
    spectra = {site.name: site_basis(model, scan, site, moments) for site in scan.sites}
    path = model.path.parent / target
    plan = plan_of(model, scan, rank, pivoted=pivoted)
    write_model(fold(model, scan, plan, spectra, version="test"), model, path)
    return path
