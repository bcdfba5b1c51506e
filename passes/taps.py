"""A copy of a model that also sums the rows of chosen tensors, inside the graph.

Behind each tensor stand `rows = reshape(tensor, (-1, d))`, every `stride`-th of them from an offset on, and from those
the gram matrix `rowsᵀ rows`, the column sums and the number of rows. Per batch this is one product in the runtime's own
precision (sums over batches are float64), and it moves (d, d) numbers out of the runtime instead of a whole activation.
What a convolution's kernel covers is gathered into rows first, by a grouped convolution that only copies.
`benchmarks/calibration` measures it beside exposing the activations themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rankfold.passes.graph_index import onnx_opset
from rankfold.passes.model_file import Model
from rankfold.values import Request, TapNames, Tapped
from rankfold.windows import Window

_PREFIX = "rankfold_tap"
_OFFSET = f"{_PREFIX}/offset"
_MASK_ROWS = {"rows": f"{_PREFIX}/mask_rows", "turned": f"{_PREFIX}/turned_mask_rows"}
_COLUMN, _FIRST_AXIS, _END = f"{_PREFIX}/column", f"{_PREFIX}/first_axis", f"{_PREFIX}/end"
_ROWS_ONLY, _ONE_COLUMN = f"{_PREFIX}/rows_only", f"{_PREFIX}/one_column"
OLDEST_MASKED_OPSET = 9  # ConstantOfShape and Where exist from here on
OLDEST_STRIDED_OPSET = 10  # Slice knows steps, and Mod exists, from here on
Masked = Literal["", "rows", "turned"]


@dataclass(frozen=True)
class TapSetting:
    """How one tensor is summed.

    Attributes:
        features, rank: Extent of the feature axis, and number of axes of the tensor, as a probe saw them.
        stride: Every how many rows one is taken.
        masked: Whether its rows follow the mask input: `rows` in its order, `turned` with the tokens first, "" not.
        wide: Whether the tensor is float64; everything else is summed in float32.
        pilot: A row near the mean, (features,), taken off every row before it is squared: float32 sums of squares far
            from the mean would hold nothing of what varies. The collector adds it back in float64.
    """

    features: int
    rank: int
    stride: int = 1
    masked: Masked = ""
    wide: bool = False
    pilot: tuple[float, ...] = ()

    @property
    def onnx_type(self) -> int:
        """Return the type the sums are made in."""
        return int(TensorProto.DOUBLE if self.wide else TensorProto.FLOAT)


def tap(model: Model, settings: Mapping[Request, TapSetting], *, mask: str | None = None) -> Tapped:
    """Return the model with one tap per request; it is not changed, and its weights are not copied.

    Args:
        model: The model.
        settings: What to sum, and how.
        mask: Graph input, (batch, tokens), that is zero for rows that do not count.
    """
    addition = ModelProto()
    graph = addition.graph
    graph.input.append(helper.make_tensor_value_info(_OFFSET, TensorProto.INT64, [1]))
    for name, values in _CONSTANTS.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    if mask is not None:
        turned = f"{_PREFIX}/turned_mask"
        graph.node.append(helper.make_node("Reshape", [mask, _COLUMN], [_MASK_ROWS["rows"]]))
        if any(setting.masked == "turned" for setting in settings.values()):
            graph.node.append(helper.make_node("Transpose", [mask], [turned], perm=[1, 0]))
            graph.node.append(helper.make_node("Reshape", [turned, _COLUMN], [_MASK_ROWS["turned"]]))
    taps = {
        request: _add_tap(graph, request, setting, (f"{_PREFIX}/{number}", onnx_opset(model.proto)))
        for number, (request, setting) in enumerate(settings.items())
    }
    return Tapped(model.path, addition.SerializeToString(deterministic=True), taps, _OFFSET)


_CONSTANTS = {
    _COLUMN: [-1, 1],
    _FIRST_AXIS: [0],
    _END: [np.iinfo(np.int64).max],
    _ROWS_ONLY: [1, 0],
    _ONE_COLUMN: [0, 1],
}


def _add_tap(graph: GraphProto, request: Request, setting: TapSetting, place: tuple[str, int]) -> TapNames:
    prefix, opset = place
    for name, value in (("stride", [setting.stride]), ("flat", [-1, setting.features])):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"{prefix}/{name}"))
    if request.block is not None:
        graph.initializer.append(numpy_helper.from_array(np.array(request.block, np.int64), f"{prefix}/block"))
    dtype = "float64" if setting.wide else "float32"
    pilot = np.array(setting.pilot or [0.0] * setting.features, dtype)
    graph.initializer.append(numpy_helper.from_array(pilot, f"{prefix}/pilot"))
    names = TapNames(f"{prefix}/gram", f"{prefix}/total", f"{prefix}/count", pilot)
    rows, weights, zero = f"{prefix}/rows", f"{prefix}/weights", f"{prefix}/zero"
    # A Gemm without C is legal only from opset 11 on.
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, dtype), zero))
    graph.node.extend(_taken_rows(request, setting, prefix))
    if setting.masked:
        graph.node.extend(_masked(setting, prefix))
    elif opset < OLDEST_MASKED_OPSET:
        graph.initializer.append(numpy_helper.from_array(np.zeros((setting.features, 1), dtype), f"{prefix}/nothing"))
        graph.initializer.append(numpy_helper.from_array(np.ones(1, dtype), f"{prefix}/one"))
        graph.node.append(helper.make_node("Gemm", [rows, f"{prefix}/nothing", f"{prefix}/one"], [weights]))
    else:
        graph.node.extend(_unmasked(setting, prefix))
    if request.window is not None:
        kernel = _one_place_each(setting.features, request.window).astype(dtype)
        graph.initializer.append(numpy_helper.from_array(kernel, f"{prefix}/places"))
    for left, right, name in ((rows, rows, names.gram), (weights, rows, names.total), (weights, weights, names.count)):
        graph.node.append(helper.make_node("Gemm", [left, right, zero], [name], transA=1))
        graph.output.append(helper.make_tensor_value_info(name, setting.onnx_type, None))
    return names


def _taken_rows(request: Request, setting: TapSetting, prefix: str) -> list[NodeProto]:
    """Flatten the tensor to (rows, features), take every stride-th row, and widen it to the type of the sums."""
    nodes, source, rank = [], request.tensor, setting.rank
    if request.window is not None:
        nodes.extend(_patches(request, setting, prefix))
        source = f"{prefix}/patches"
    if request.block is not None:
        nodes.append(helper.make_node("Gather", [source, f"{prefix}/block"], [f"{prefix}/matrix"], axis=rank - 3))
        source, rank = f"{prefix}/matrix", rank - 1
    axis = request.feature_axis % rank
    if axis != rank - 1:
        order = [*(place for place in range(rank) if place != axis), axis]
        nodes.append(helper.make_node("Transpose", [source], [f"{prefix}/turned"], perm=order))
        source = f"{prefix}/turned"
    nodes.append(helper.make_node("Reshape", [source, f"{prefix}/flat"], [f"{prefix}/all"]))
    sliced = _slice(f"{prefix}/all", f"{prefix}/sliced", setting, prefix)
    name = "loose" if setting.masked else "rows"
    if setting.stride > 1:
        nodes.append(helper.make_node("Mod", [_OFFSET, f"{prefix}/stride"], [f"{prefix}/start"]))
    return [
        *nodes,
        sliced,
        helper.make_node("Cast", [f"{prefix}/sliced"], [f"{prefix}/wide"], to=setting.onnx_type),
        helper.make_node("Sub", [f"{prefix}/wide", f"{prefix}/pilot"], [f"{prefix}/{name}"]),
    ]


def _patches(request: Request, setting: TapSetting, prefix: str) -> list[NodeProto]:
    """Gather what the kernel covers into channels, by a convolution whose every channel copies one of its places."""
    window = request.window
    assert window is not None  # the caller asked
    inputs = [f"{prefix}/windowed", f"{prefix}/places"]
    groups = setting.features // math.prod(window.kernel)
    gather = helper.make_node("Conv", inputs, [f"{prefix}/patches"], group=groups, auto_pad=window.auto_pad)
    named = {"kernel_shape": window.kernel, "strides": window.strides, "dilations": window.dilations}
    for name, value in {**named, "pads": window.pads}.items():
        gather.attribute.extend([helper.make_attribute(name, value)] if value else [])
    return [helper.make_node("Cast", [request.tensor], inputs[:1], to=setting.onnx_type), gather]


def _one_place_each(features: int, window: Window) -> NDArray[np.float64]:
    """Return a kernel, (features, 1, *kernel), that takes one place after the other of each channel."""
    places = math.prod(window.kernel)
    return np.tile(np.eye(places), (features // places, 1)).reshape(features, 1, *window.kernel)


def _slice(source: str, target: str, setting: TapSetting, prefix: str) -> NodeProto:
    if setting.stride == 1:
        return helper.make_node("Identity", [source], [target])
    return helper.make_node("Slice", [source, f"{prefix}/start", _END, _FIRST_AXIS, f"{prefix}/stride"], [target])


def _masked(setting: TapSetting, prefix: str) -> list[NodeProto]:
    """Weigh rows by the mask's truth; a padded row becomes zero whatever it holds, NaN included."""
    return [
        _slice(_MASK_ROWS[setting.masked], f"{prefix}/mask", setting, prefix),
        helper.make_node("Cast", [f"{prefix}/mask"], [f"{prefix}/truth"], to=TensorProto.BOOL),
        helper.make_node("Cast", [f"{prefix}/truth"], [f"{prefix}/weights"], to=setting.onnx_type),
        helper.make_node("Where", [f"{prefix}/truth", f"{prefix}/loose", f"{prefix}/zero"], [f"{prefix}/rows"]),
    ]


def _unmasked(setting: TapSetting, prefix: str) -> list[NodeProto]:
    """Weigh every row by one."""
    one = numpy_helper.from_array(np.ones(1, np.float64 if setting.wide else np.float32))
    return [
        helper.make_node("Shape", [f"{prefix}/rows"], [f"{prefix}/shape"]),
        helper.make_node("Mul", [f"{prefix}/shape", _ROWS_ONLY], [f"{prefix}/height"]),
        helper.make_node("Add", [f"{prefix}/height", _ONE_COLUMN], [f"{prefix}/ones_shape"]),
        helper.make_node("ConstantOfShape", [f"{prefix}/ones_shape"], [f"{prefix}/weights"], value=one),
    ]
