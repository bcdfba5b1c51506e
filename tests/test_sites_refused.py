"""Linear nodes that are left alone, each with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx_examples import Array, build, gaussian, opened

from rankfold.passes.model_file import Model
from rankfold.passes.sites import find_sites
from rankfold.values import Skipped

W = gaussian(6, 6)
STACK = "stack of matrices beside an activation of unknown rank or a single vector ('v'); run shape inference first"
ONLY = "only matrices, and stacks of them along one axis, are folded"
WIDE = '<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1, "made.up" : 1]>'


def skipped(model: Model) -> list[tuple[str, str]]:
    scan = find_sites(model)
    assert scan.sites == ()
    return [(found.op_type, found.reason) for found in scan.skipped]


REFUSED: dict[str, tuple[str, dict[str, Array], list[tuple[str, str]]]] = {
    "two activations": ("y = MatMul(x, x)", {}, [("MatMul", "neither operand is constant")]),
    "two constants": (
        "c = MatMul(w, v) s = ReduceSum(c) y = Add(x, s)",
        {"w": W, "v": W},
        [("MatMul", "both operands are constant; fold constants first")],
    ),
    "integers": (
        "i = Cast<to=6>(x) j = MatMul(i, w) y = Cast<to=1>(j)",
        {"w": np.ones((6, 6), np.int32)},
        [("MatMul", "weight 'w' is INT32, not a float type that is folded")],
    ),
    "experts": (
        "e = MatMul(x, w) y = ReduceSum(e, axes)",
        {"w": gaussian(2, 3, 6, 6), "axes": np.array([0, 1])},
        [("MatMul", f"weight 'w' has shape [2, 3, 6, 6]; {ONLY}")],
    ),
    "a weight stored in bytes": (
        "c = Cast<to=1>(w) y = MatMul(x, c)",
        {"w": np.ones((6, 6), np.int8)},
        [("MatMul", "weight 'w' is stored as INT8 and cast; factors are stored in no such type")],
    ),
    "a vector": (
        "e = MatMul(x, w) u = Unsqueeze(e, axes) y = Mul(x, u)",
        {"w": gaussian(6), "axes": np.array([1])},
        [("MatMul", f"weight 'w' has shape [6]; {ONLY}")],
    ),
    "an empty weight": (
        "e = MatMul(x, w) z = MatMul(e, v) y = Add(x, z)",
        {"w": np.zeros((6, 0), np.float32), "v": np.zeros((0, 6), np.float32)},
        [("MatMul", "weight 'w' is empty, shape [6, 0]"), ("MatMul", "weight 'v' is empty, shape [0, 6]")],
    ),
    "a dequantised weight": (
        "d = DequantizeLinear(q, s) y = MatMul(x, d)",
        {"q": np.ones((6, 6), np.int8), "s": np.float32(0.1) * np.ones((), np.float32)},
        [("MatMul", "operand is dequantised; fold before quantising")],
    ),
    "a Gather of the same weight": (
        "i = Constant<value_ints=[0]>() g = Gather(w, i) h = MatMul(x, w) y = Add(h, g)",
        {"w": W},
        [("MatMul", "weight 'w' is also used by Gather 'Gather_1' in another form; folding would only add parameters")],
    ),
    "a Gather behind an Identity": (
        "t = Identity(w) i = Constant<value_ints=[0]>() g = Gather(t, i) h = MatMul(x, w) y = Add(h, g)",
        {"w": W},
        [("MatMul", "weight 'w' is also used by Gather 'Gather_2' in another form; folding would only add parameters")],
    ),
    "two orientations": (
        "[up] h = MatMul(x, w) t = Transpose(w) [down] y = MatMul(h, t)",
        {"w": W},
        [
            ("MatMul", "weight 'w' is also used by MatMul 'down' in another form; folding would only add parameters"),
            ("MatMul", "weight 'w' is also used by MatMul 'up' in another form; folding would only add parameters"),
        ],
    ),
    "left and right": (
        "[right] h = MatMul(x, w) q = Transpose(h) [left] r = MatMul(w, q) y = Transpose(r)",
        {"w": W},
        [
            ("MatMul", "weight 'w' is also used by MatMul 'left' in another form; folding would only add parameters"),
            ("MatMul", "weight 'w' is also used by MatMul 'right' in another form; folding would only add parameters"),
        ],
    ),
    "a convolution in groups": (
        "a = Constant<value_ints=[2]>() u = Unsqueeze(x, a) c = Conv<group=3>(u, k) y = Squeeze(c, a)",
        {"k": gaussian(6, 2, 1)},
        [("Conv", "convolution in 3 groups; only those of one group are folded")],
    ),
    "a kernel that is computed": (
        "a = Constant<value_ints=[2]>() u = Unsqueeze(x, a) m = Mul(k, k) c = Conv(u, m) y = Squeeze(c, a)",
        {"k": gaussian(6, 6, 1)},
        [("Conv", "the kernel is not constant")],
    ),
    "a bias that is computed": (
        "a = Constant<value_ints=[2]>() u = Unsqueeze(x, a) m = Mul(b, b) c = Conv(u, k, m) y = Squeeze(c, a)",
        {"k": gaussian(6, 6, 1), "b": gaussian(6)},
        [("Conv", "the bias of the convolution is not constant")],
    ),
    "a stack beside a vector": (
        "v = ReduceMean<keepdims=0, axes=[0]>(x) e = MatMul(v, w) y = Add(x, e)",
        {"w": gaussian(1, 6, 6).repeat(3, 0)},
        [
            (
                "MatMul",
                STACK,
            )
        ],
    ),
    "Einsum": ('y = Einsum<equation="ni,io->no">(x, w)', {"w": W}, [("Einsum", "Einsum is not folded")]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_reasons(case: str, tmp_path: Path) -> None:
    body, weights, reasons = REFUSED[case]
    model = opened(build(f"g (float[n,6] x) => (float[n,6] y) {{ {body} }}", weights), tmp_path)
    assert skipped(model) == reasons


FUSED = {
    "com.microsoft.FusedMatMul<transBatchA=1>": "transBatchA or transBatchB moves the batch axis; fold first, optimise"
    " the graph afterwards",
    "com.microsoft.MoE": "a fused node of experts; fold first, optimise the graph afterwards",
    "com.microsoft.FusedConv": "a fused node of the runtime's optimiser; fold first, optimise the graph afterwards",
    "com.microsoft.FusedMatMul<alpha=0.0>": "alpha is 0.0, so the weight does not matter",
    "com.microsoft.GemmFastGelu": "a fused node of the runtime's optimiser; fold first, optimise the graph afterwards",
    "com.microsoft.Attention": "a fused attention node; fold first, optimise the graph afterwards",
    "com.microsoft.MatMulNBits": "already quantised; fold before quantising",
    "made.up.MatMul": "operator of domain 'made.up'",
}


@pytest.mark.parametrize("operator", FUSED)
def test_reasons_of_other_domains(operator: str, tmp_path: Path) -> None:
    text = f"g (float[n,6] x) => (float[n,6] y) {{ y = {operator}(x, w) }}"
    model = opened(build(text, {"w": W}, header=WIDE), tmp_path)
    assert skipped(model) == [(operator.partition("<")[0].rpartition(".")[2], FUSED[operator])]


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_left_alone(operator: str, tmp_path: Path) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    weights = {"w": gaussian(1, gates * 5, 6), "r": gaussian(1, gates * 5, 5)}
    text = f"g (float[s,n,6] x) => (float[s,1,n,5] y) {{ y = {operator}<hidden_size=5>(x, w, r) }}"
    assert skipped(opened(build(text, weights), tmp_path)) == [(operator, "recurrent layers are not folded")]


@pytest.mark.parametrize("chain", ["", "i = Identity(w)"])
def test_a_weight_that_is_a_graph_output_too_stays(chain: str, tmp_path: Path) -> None:
    given = "i" if chain else "w"
    text = f"g (float[n,6] x) => (float[n,6] y, float[6,6] {given}) {{ {chain} y = MatMul(x, w) }}"
    reason = (
        "weight 'w' is also used by a graph output or a nested graph; it would have to stay, and folding would only add"
        " parameters"
    )
    assert skipped(opened(build(text, {"w": W}), tmp_path)) == [("MatMul", reason)]


def test_an_overridable_weight_is_left_alone(tmp_path: Path) -> None:
    text = "g (float[n,6] x, float[6,6] w) => (float[n,6] y) { y = MatMul(x, w) }"
    reason = "weight 'w' is also a graph input, so a caller may override it"
    assert skipped(opened(build(text, {"w": W}), tmp_path)) == [("MatMul", reason)]


def test_a_left_weight_needs_the_activations_rank(tmp_path: Path) -> None:
    text = "g (float[n] x, int64[k] s) => (float[a,b] y) { r = Reshape(x, s) y = MatMul(w, r) }"
    reason = "weight on the left of an activation of unknown rank ('r'); run shape inference first"
    assert skipped(opened(build(text, {"w": W}), tmp_path)) == [("MatMul", reason)]


def test_old_files_make_every_weight_an_input(tmp_path: Path) -> None:
    text = "g (float[n,6] x) => (float[n,6] y) { y = MatMul(x, w) }"
    old = build(text, {"w": W}, header='<ir_version: 3, opset_import: ["" : 8]>')
    old.graph.input.append(helper.make_tensor_value_info("w", 1, [6, 6]))
    reason = "ir_version 3 makes every weight a graph input; raise it to 4 or more"
    assert skipped(opened(old, tmp_path)) == [("MatMul", reason)]


def test_old_operator_sets_are_left_alone(tmp_path: Path) -> None:
    text = "g (float[n,6] x) => (float[n,6] y) { y = MatMul(x, w) }"
    old = build(text, {"w": W}, header='<ir_version: 4, opset_import: ["" : 6]>')
    reason = "opset 6 is too old for what is added to the graph; convert the model to 7 or more"
    assert skipped(opened(old, tmp_path)) == [("MatMul", reason)]


def test_linear_nodes_in_bodies_and_functions_are_named(tmp_path: Path) -> None:
    text = """g (float[n,6] x, bool c) => (float[n,6] y) {
      h = made.up.dense(x)
      [choice] y = If (c) <
        then_branch = one () => (float[n,6] t) { [inner] t = MatMul(h, w) },
        else_branch = two () => (float[n,6] e) { e = Identity(h) }
      >
    }
    <domain: "made.up", opset_import: ["" : 17]>
    dense (a) => (b) { b = MatMul(a, a) }"""
    model = build(text, {"w": W}, header=WIDE)
    assert find_sites(opened(model, tmp_path)).skipped == (
        Skipped("MatMul", "MatMul", "inside the local function made.up:dense, which was not put in line"),
        Skipped("inner", "MatMul", "inside the body of If 'choice', which cannot be tapped"),
    )


def test_a_weight_that_a_body_reads_too_stays(tmp_path: Path) -> None:
    text = """g (float[n,6] x, bool c) => (float[n,6] y) {
      [outer] h = MatMul(x, w)
      [choice] y = If (c) <
        then_branch = one () => (float[n,6] t) { t = Add(h, w) },
        else_branch = two () => (float[n,6] e) { e = Identity(h) }
      >
    }"""
    assert skipped(opened(build(text, {"w": W}), tmp_path))[0][1].startswith(
        "weight 'w' is also used by a graph output or a nested graph;"
    )


def test_a_sparse_weight_is_no_constant(tmp_path: Path) -> None:
    model = build("g (float[n,6] x) => (float[n,6] y) { y = MatMul(x, w) }", {})
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    places = numpy_helper.from_array(np.array([0, 7]), "w_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [6, 6]))
    assert skipped(opened(model, tmp_path)) == [("MatMul", "neither operand is constant")]


@pytest.mark.parametrize("node", ["FusedMatMul<transA=1>(v, w)", "FusedMatMul<transA=1>(w, v)"])
def test_a_fused_product_of_a_vector_is_not_transposed(node: str, tmp_path: Path) -> None:
    """onnxruntime does not transpose a single vector, and gets a matrix on its left wrong."""
    nodes = f"v = ReduceMean<keepdims=0, axes=[0]>(x) e = com.microsoft.{node} y = Add(x, e)"
    model = build(f"g (float[n,6] x) => (float[n,6] y) {{ {nodes} }}", {"w": W}, header=WIDE)
    reason = "transposed beside an activation of unknown rank or a single vector ('v')"
    assert skipped(opened(model, tmp_path)) == [("FusedMatMul", reason)]


def test_a_weight_that_is_its_own_bias_stays(tmp_path: Path) -> None:
    model = build("g (float[n,6] x) => (float[n,6] y) { [fc] y = Gemm(x, w, w) }", {"w": W})
    assert skipped(opened(model, tmp_path))[0][1].startswith("weight 'w' is also used by Gemm 'fc' in another form")
