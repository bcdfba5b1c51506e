"""Models of the patterns beyond plain MatMul and Gemm: convolutions, fused products, stacks and splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx_examples import Array, build, gaussian, opened

from rankfold.passes.model_file import Model

WIDE = '<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>'


@dataclass(frozen=True)
class Example:
    """A model of one pattern: its nodes, weights, the shape of `x`, and the sizes of its sites."""

    nodes: str
    weights: dict[str, Array]
    x: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    written: str

    def model(self, folder: Path) -> Model:
        axes = ",".join(f"a{place}" if not place else str(extent) for place, extent in enumerate(self.x))
        rank = max(len(self.x), self.weights["w"].ndim if "MatMul" in self.nodes else 0)
        rank = 2 if "v = " in self.nodes else rank
        given = ",".join(f"c{place}" for place in range(rank))
        text = f"g (float[{axes}] x) => (float[{given}] y) {{ {self.nodes} }}"
        return opened(build(text, self.weights, header=WIDE), folder)

    def rows(self, *, seed: int = 3) -> Array:
        return np.random.default_rng(seed).standard_normal(self.x).astype(np.float32) + np.float32(0.5)


IMAGE = (6, 5, 9, 8)
_KERNEL = {"w": gaussian(12, 5, 3, 3, seed=1, scale=0.2), "b": gaussian(12, seed=2, scale=1.0)}
_POINT = {"w": gaussian(12, 5, 1, 1, seed=1, scale=0.4), "b": gaussian(12, seed=2, scale=1.0)}
MATRIX = {"w": gaussian(12, 16, seed=1), "b": gaussian(16, seed=2, scale=1.0)}
_TURNED = {"w": gaussian(16, 12, seed=1)}
_STACK = {"w": gaussian(3, 12, 16, seed=1, scale=0.3)}
_QKV = {"w": gaussian(12, 30, seed=1), "sizes": np.array([10, 10, 10])}


def _conv(attributes: str, operands: str = "x, w, b", weights: dict[str, Array] | None = None) -> Example:
    chosen = weights or _KERNEL
    used = {name: value for name, value in chosen.items() if name in operands}
    fan = int(np.prod(chosen["w"].shape[1:]))
    return Example(f"y = Conv{attributes}({operands})", used, IMAGE, ((fan, 12),), "Conv Conv")


EXAMPLES = {
    "conv": _conv(""),
    "conv without bias": _conv("", "x, w"),
    "conv, strides and pads": _conv("<strides=[2,1], pads=[1,0,2,1]>"),
    "conv, dilations": _conv("<dilations=[2,2], kernel_shape=[3,3]>"),
    "conv, auto_pad": _conv('<auto_pad="SAME_UPPER", strides=[2,2]>'),
    "conv, auto_pad lower": _conv('<auto_pad="SAME_LOWER">'),
    "conv 1x1": _conv("", weights=_POINT),
    "conv 1x1, strided": _conv("<strides=[2,2]>", "x, w", _POINT),
    "conv 1x1, padded": _conv("<pads=[1,1,1,1]>", weights=_POINT),
    "conv 1-D": Example(
        "y = Conv<pads=[1,1]>(x, w)", {"w": gaussian(8, 5, 3, seed=1)}, (6, 5, 20), ((15, 8),), "Conv Conv"
    ),
    "conv 3-D": Example(
        "y = Conv(x, w)", {"w": gaussian(8, 2, 2, 2, 2, seed=1)}, (6, 2, 4, 4, 5), ((16, 8),), "Conv Conv"
    ),
    "conv, wide kernel": Example(
        "y = Conv(x, w)", {"w": gaussian(20, 1, 3, 3, seed=1)}, (6, 1, 9, 8), ((9, 20),), "Conv Conv"
    ),
    "conv, kernel split": Example(
        "k, l = Split<num_outputs=2>(w) p = Conv(x, k) q = Conv(x, l) y = Concat<axis=1>(p, q)",
        {"w": gaussian(16, 5, 3, 3, seed=1)},
        IMAGE,
        ((45, 8), (45, 8)),
        "Conv Conv Conv Conv Concat",
    ),
    "fused matmul": Example(
        "y = com.microsoft.FusedMatMul<alpha=0.5>(x, w)", {"w": MATRIX["w"]}, (7, 9, 12), ((12, 16),), "F F"
    ),
    "fused matmul, transB, add": Example(
        "p = com.microsoft.FusedMatMul<alpha=-2.0, transB=1>(x, w) y = Add(p, b)",
        _TURNED | {"b": MATRIX["b"]},
        (7, 9, 12),
        ((12, 16),),
        "F F Add",
    ),
    "fused matmul, transA": Example(
        "y = com.microsoft.FusedMatMul<transA=1>(x, w)", {"w": MATRIX["w"]}, (7, 12, 9), ((12, 16),), "F F"
    ),
    "fused matmul, left": Example(
        "y = com.microsoft.FusedMatMul<alpha=3.0>(w, x)", _TURNED, (7, 12, 9), ((12, 16),), "F F"
    ),
    "fused matmul, left, both transposed": Example(
        "y = com.microsoft.FusedMatMul<transA=1, transB=1>(w, x)",
        {"w": MATRIX["w"]},
        (7, 9, 12),
        ((12, 16),),
        "F F",
    ),
    "fused gemm": Example(
        'y = com.microsoft.FusedGemm<activation="Relu", alpha=0.5, beta=2.0>(x, w, b)',
        MATRIX,
        (60, 12),
        ((12, 16),),
        "Gemm FusedGemm",
    ),
    "fused gemm without C": Example(
        'y = com.microsoft.FusedGemm<activation="LeakyRelu", activation_alpha=0.3, transB=1>(x, w)',
        _TURNED,
        (60, 12),
        ((12, 16),),
        "Gemm FusedGemm",
    ),
    "stack": Example("y = MatMul(x, w)", _STACK, (5, 3, 20, 12), ((12, 16),), "MatMul MatMul"),
    "stack, shared rows": Example("y = MatMul(x, w)", _STACK, (60, 12), ((12, 16),), "MatMul MatMul"),
    "stack, left": Example(
        "y = MatMul(w, x)", {"w": gaussian(3, 16, 12, seed=1)}, (5, 3, 12, 20), ((12, 16),), "MatMul MatMul"
    ),
    "stack of one": Example(
        "p = MatMul(x, w) y = Add(p, b)",
        {"w": MATRIX["w"][None], "b": MATRIX["b"]},
        (60, 12),
        ((12, 16),),
        "MatMul MatMul Add",
    ),
    "stack of one beside a vector": Example(
        "v = ReduceMean<keepdims=0>(x, first) y = MatMul(v, w)",
        {"w": MATRIX["w"][None], "first": np.array([0])},
        (60, 12),
        ((12, 16),),
        "ReduceMean MatMul MatMul",
    ),
    "stack of one on the left of a vector": Example(
        "v = ReduceMean<keepdims=0>(x, first) y = MatMul(w, v)",
        {"w": _TURNED["w"][None], "first": np.array([0])},
        (60, 12),
        ((12, 16),),
        "ReduceMean MatMul MatMul",
    ),
    "stack behind a transpose": Example(
        "t = Transpose<perm=[0,2,1]>(w) y = MatMul(x, t)",
        {"w": gaussian(3, 16, 12, seed=1)},
        (5, 3, 20, 12),
        ((12, 16),),
        "MatMul MatMul",
    ),
    "split": Example(
        "q, k, v = Split<axis=1>(w, sizes) a = MatMul(x, q) b = MatMul(x, k) c = MatMul(x, v)"
        " y = Concat<axis=-1>(a, b, c)",
        _QKV,
        (6, 9, 12),
        ((12, 10),) * 3,
        "MatMul MatMul MatMul MatMul MatMul MatMul Concat",
    ),
    "split, transposed": Example(
        "q, k = Split<num_outputs=2>(w) s = Transpose(q) t = Transpose(k) a = MatMul(x, s) b = MatMul(x, t)"
        " y = Sub(a, b)",
        {"w": gaussian(20, 12, seed=1)},
        (6, 9, 12),
        ((12, 10),) * 2,
        "MatMul MatMul MatMul MatMul Sub",
    ),
}
