"""A chain of layers that count unequally, and data for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx_examples import build, gaussian, low_rank_rows, save

LAYERS = 4
WIDTH = 48


def uneven_chain(folder: Path) -> Path:
    """Write a chain of layers of unequal weight in the output: each adds to what the next ones read, by its factor."""
    nodes = "".join(
        f"[fc{n}] m{n} = MatMul(x{n}, w{n})\n t{n} = Tanh(m{n})\n s{n} = Mul(t{n}, c{n})\n x{n + 1} = Add(x{n}, s{n})\n"
        for n in range(LAYERS)
    )
    body = f"g (float[batch,{WIDTH}] x0) => (float[batch,{WIDTH}] x{LAYERS}) {{ {nodes} }}"
    weights = {f"w{n}": gaussian(WIDTH, WIDTH, seed=n) for n in range(LAYERS)}
    weights |= {f"c{n}": np.array(factor, np.float32) for n, factor in enumerate((0.02, 1.0, 0.1, 0.5))}
    return save(build(body, weights), folder / "deep.onnx")


def chain_data() -> dict[str, np.ndarray]:
    """Return rows for it, mostly near a subspace."""
    return {"x0": low_rank_rows(600, WIDTH, 30, seed=9) + gaussian(600, WIDTH, seed=10, scale=0.2)}
