"""Why a linear node is left as it is: the words that reports print, and that the page of patterns lists."""

from __future__ import annotations

LEFT_OF_UNKNOWN_RANK = "weight on the left of an activation of unknown rank ({tensor!r}); run shape inference first"
STACK_OF_UNKNOWN_RANK = (
    "stack of matrices beside an activation of unknown rank or a single vector ({tensor!r}); run shape inference first"
)
TURNED_VECTOR = "transposed beside an activation of unknown rank or a single vector ({tensor!r})"
ALPHA_IS_NOTHING = "alpha is {alpha}, so the weight does not matter"
BOTH_CONSTANT = "both operands are constant; fold constants first"
NOT_A_FOLDED_TYPE = "weight {root!r} is {type}, not a float type that is folded"
STORED_NARROW = "weight {root!r} is stored as {type} and cast; factors are stored in no such type"
NOT_A_MATRIX = "weight {root!r} has shape {shape}; only matrices, and stacks of them along one axis, are folded"
EMPTY = "weight {root!r} is empty, shape {shape}"
OVERRIDABLE = "weight {name!r} is also a graph input, so a caller may override it"
DEQUANTISED = "operand is dequantised; fold before quantising"
NOT_CONSTANT = "neither operand is constant"
BATCH_TRANSPOSED = "transBatchA or transBatchB moves the batch axis; fold first, optimise the graph afterwards"
GROUPED = "convolution in {groups} groups; only those of one group are folded"
KERNEL_NOT_CONSTANT = "the kernel is not constant"
NOT_A_KERNEL = "kernel {root!r} has shape {shape}; expected (out, in, extents of the kernel)"
BIAS_NOT_CONSTANT = "the bias of the convolution is not constant"
OTHER_DOMAIN = "operator of domain {domain!r}"
OLD_OPSET = "opset {found} is too old for what is added to the graph; convert the model to {oldest} or more"
OLD_IR = "ir_version {found} makes every weight a graph input; raise it to {oldest} or more"
SHARED_OUTSIDE = "weight {root!r} is also used by {user}; it would have to stay, and folding would only add parameters"
SHARED_OTHERWISE = "weight {root!r} is also used by {user} in another form; folding would only add parameters"
IN_FUNCTION = "inside the local function {function}, which was not put in line"
IN_BODY = "inside the body of {node}, which cannot be tapped"
EXCLUDED = "excluded by the pattern {pattern!r}"
NOT_INCLUDED = "matches none of the patterns that are included"

QUANTISED = "already quantised; fold before quantising"
FUSED_ATTENTION = "a fused attention node; fold first, optimise the graph afterwards"
RECURRENT = "recurrent layers are not folded"
FUSED_BY_OPTIMISER = "a fused node of the runtime's optimiser; fold first, optimise the graph afterwards"

OPERATORS_LEFT_ALONE = {
    "ConvTranspose": "transposed convolutions are not folded",
    "FusedConv": FUSED_BY_OPTIMISER,
    "NhwcFusedConv": FUSED_BY_OPTIMISER,
    "DeformConv": "deformable convolutions are not folded",
    "Einsum": "Einsum is not folded",
    **dict.fromkeys(("MoE", "QMoE"), "a fused node of experts; fold first, optimise the graph afterwards"),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), RECURRENT),
    **dict.fromkeys(("Attention", "QAttention", "LongformerAttention", "PackedAttention"), FUSED_ATTENTION),
    "GemmFastGelu": FUSED_BY_OPTIMISER,
    "GemmFloat8": QUANTISED,
    **dict.fromkeys(
        (
            "MatMulInteger",
            "QLinearMatMul",
            "ConvInteger",
            "QLinearConv",
            "MatMulNBits",
            "MatMulFpQ4",
            "MatMulBnb4",
            "DynamicQuantizeMatMul",
            "DynamicQuantizeLSTM",
            "QGemm",
            "MatMulIntegerToFloat",
        ),
        QUANTISED,
    ),
}
