"""A model with masks: all ones is the original, r ones are rank r as it is folded, whatever the other sites are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_examples import Array, collected, folded, gaussian, low_rank_rows, mlp, plan_of, run
from pattern_examples import EXAMPLES, Example
from site_examples import PATTERNS, Pattern

from rankfold.passes.bases import site_basis
from rankfold.passes.masked import Masked, full_rank_bytes, masked
from rankfold.passes.model_file import Model, load_model
from rankfold.passes.plan import dense_plan
from rankfold.passes.sites import Scan, find_sites
from rankfold.passes.write_model import write_model
from rankfold.values import Feed, RankPlan

# Two products round twice where one rounded once: some units of float32's 6e-8, and of float16's 5e-4.
ROUNDING = {"float": 1e-5, "float16": 1e-2}


def with_masks(
    model: Model, feed: Feed, sites: tuple[str, ...] | None = None, plan: RankPlan | None = None
) -> tuple[Path, Masked, Scan]:
    scan = find_sites(model)
    moments = collected(model, scan, feed)
    bases = {site.name: site_basis(model, scan, site, moments) for site in scan.sites}
    chosen = tuple(bases) if sites is None else sites
    dense = dense_plan(scan, "none", model_digest=model.digest)
    made = masked(model, scan, plan or dense, lambda site: bases[site.name], sites=chosen)
    assert made is not None
    path = model.path.parent / "masked.onnx"
    write_model(made.rewritten, model, path)
    return path, made, scan


def distance(found: Array, expected: Array) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_masks_are_ranks(pattern: Pattern, dtype: str, tmp_path: Path) -> None:
    """In every way that a product is written: the folded model itself is what masks are held against."""
    model = pattern.model(tmp_path, dtype=dtype)
    feed = {"x": pattern.activation((12, 20), dtype, rank=None)}
    path, made, _ = with_masks(model, feed)
    (mask,) = made.masks.values()
    whole = run(path, feed | {mask.name: mask.of_rank(None)})[0]
    assert distance(whole, run(model.path, feed)[0]) < ROUNDING[dtype]
    for rank in (1, 5):
        cut = run(path, feed | {mask.name: mask.of_rank(rank)})[0]
        expected = run(folded(model, feed, rank), feed)[0]
        assert distance(cut, expected) < ROUNDING[dtype]
        # It does cut, but where the batch is one vector: then one direction holds all.
        assert feed["x"].ndim == 1 or distance(cut, whole) > 20 * ROUNDING["float"]


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_masks_of_convolutions_stacks_and_fused_products(example: Example, tmp_path: Path) -> None:
    model = example.model(tmp_path)
    feed = {"x": example.rows()}
    path, made, _ = with_masks(model, feed)
    whole = run(path, feed | {mask.name: mask.of_rank(None) for mask in made.masks.values()})
    cut = run(path, feed | {mask.name: mask.of_rank(4) for mask in made.masks.values()})
    for first, second in ((whole, run(model.path, feed)), (cut, run(folded(model, feed, 4), feed))):
        assert distance(first[0], second[0]) < ROUNDING["float"]


def test_sites_without_a_mask_are_as_the_plan_has_them(tmp_path: Path) -> None:
    model = load_model(mlp(tmp_path / "m.onnx"))
    feed = {"x": low_rank_rows(300, 32, 12, offset=1.0) + gaussian(300, 32, seed=2, scale=0.05)}
    scan = find_sites(model)
    both = plan_of(model, scan, 8)
    path, made, _ = with_masks(model, feed, ("fc2",), both)
    assert set(made.masks) == {"fc2"}
    mask = made.masks["fc2"]
    found = run(path, feed | {mask.name: mask.of_rank(8)})[0]
    assert distance(found, run(folded(model, feed, 8), feed)[0]) < ROUNDING["float"]


def test_nothing_to_do_gives_nothing(tmp_path: Path) -> None:
    model = load_model(mlp(tmp_path / "m.onnx"))
    scan = find_sites(model)
    dense = dense_plan(scan, "none", model_digest=model.digest)
    assert masked(model, scan, dense, lambda site: pytest.fail(site.name), sites=()) is None


def test_a_mask_has_one_entry_per_direction(tmp_path: Path) -> None:
    model = load_model(mlp(tmp_path / "m.onnx"))
    _, made, scan = with_masks(model, {"x": gaussian(300, 32, seed=3, scale=1.0)})
    assert {name: mask.shape for name, mask in made.masks.items()} == {"fc1": (32,), "fc2": (16,)}
    assert made.masks["fc1"].of_rank(3).tolist() == [True] * 3 + [False] * 29
    assert made.masks["fc1"].of_rank(None).all()
    assert [full_rank_bytes(site) for site in scan.sites] == [4 * 32 * (32 + 64), 4 * 16 * (64 + 16)]
