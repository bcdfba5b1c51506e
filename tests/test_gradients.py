"""Moments of gradients: those of a linear map are known, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_examples import build, gaussian

from rankfold.training.executor import build as module_of
from rankfold.training.gradients import Probing, Watched, gradient_moments

SAMPLES, WIDTH, OUT = 40, 6, 5
WEIGHTS = {"w1": gaussian(WIDTH, WIDTH, seed=0), "w2": gaussian(WIDTH, OUT, seed=1)}
CHAIN = f"""g (float[batch,{WIDTH}] x) => (float[batch,{OUT}] y) {{
    h = MatMul(x, w1)
    y = MatMul(h, w2)
    }}"""
X = gaussian(SAMPLES, WIDTH, seed=2)
PROBES = 400


def moments(feeds: list[dict[str, np.ndarray]], watched: Watched, **settings: object) -> np.ndarray:
    module = module_of(build(CHAIN, WEIGHTS), trainable=["w1", "w2"], also=["h"])
    probing = Probing({"y": 1.0}, **{"probes": PROBES, **settings})  # type: ignore[arg-type]
    return gradient_moments(module, feeds, [watched], probing)[0]


def exact() -> np.ndarray:
    """Return W2 W2ᵀ over the output's energy per sample: of `u · (h W2)` the gradient is `W2 u`."""
    outputs = X @ WEIGHTS["w1"] @ WEIGHTS["w2"]
    return WEIGHTS["w2"] @ WEIGHTS["w2"].T / (outputs**2).sum() * SAMPLES


def test_of_a_linear_map_they_are_known() -> None:
    found = moments([{"x": X}], Watched("h", -1))
    # SAMPLES · PROBES independent draws of a product of normals: five standard deviations of an entry, whose variance
    # is at most twice the product of the diagonal's.
    sigma = np.sqrt(2 * np.outer(np.diag(exact()), np.diag(exact())) / (SAMPLES * PROBES))
    assert (np.abs(found - exact()) <= 5 * sigma).all()


def test_scale_and_rows_act_on_the_gradient() -> None:
    plain = moments([{"x": X}], Watched("h", -1))
    rows = np.linalg.qr(gaussian(WIDTH, 3, seed=5))[0]
    turned = moments([{"x": X}], Watched("h", -1, scale=2.0, rows=rows))
    np.testing.assert_allclose(turned, 4 * rows.T @ plain @ rows, rtol=1e-4, atol=1e-4 * np.abs(plain).max())  # float32


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    first, again, other = (moments([{"x": X}], Watched("h", -1), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_padded_rows_do_not_count() -> None:
    body = f"""g (float[batch,tokens,{WIDTH}] x, int64[batch,tokens] mask) => (float[batch,tokens,{OUT}] y) {{
        h = MatMul(x, w1)
        y = MatMul(h, w2)
        }}"""
    module = module_of(build(body, WEIGHTS), trainable=["w1", "w2"], also=["h"])
    tokens = X.reshape(SAMPLES // 4, 4, WIDTH)
    mask = np.array([[1, 1, 1, 0]] * len(tokens), np.int64)
    other = np.where(mask[:, :, None] != 0, tokens, 100 * tokens).astype(np.float32)
    probing = Probing({"y": 1.0}, padding="mask")
    found = [
        gradient_moments(module, [{"x": x, "mask": mask}], [Watched("h", -1)], probing)[0] for x in (tokens, other)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)  # float32 sums over 30 rows


@pytest.mark.parametrize("rows", [None, np.eye(WIDTH, 2, dtype=np.float32)])
def test_what_no_output_depends_on_has_zeros_or_nothing(rows: np.ndarray | None) -> None:
    body = CHAIN.replace("}", "lost = MatMul(x, w1)\n}")
    module = module_of(build(body, WEIGHTS), trainable=["w1", "w2"], also=["lost"])
    (found,) = gradient_moments(module, [{"x": X}], [Watched("lost", -1, rows=rows)], Probing({"y": 1.0}))
    assert not found.any()
