"""Cases of onnx that the executor refuses though it has their operators: what is missing, and which cases need it."""

from __future__ import annotations

# Windows of attention came after the newest opset here.
_WINDOWS = {
    "Attention with attribute left_window_size": (
        "attention_3d_local_window",
        "attention_local_window",
        "attention_local_window_rank1_boolean_mask",
        "attention_local_window_with_past",
    ),
    "Attention with attribute left_window_size, right_window_size": (
        "attention_bidirectional_window",
        "attention_local_window_default",
    ),
}
# Scores as an output are for looking at attention; torch's fused kernel has none.
_SCORES = {
    "Attention with output 4": (
        "attention_3d_with_past_and_present_qk_matmul",
        "attention_4d_with_past_and_present_qk_matmul",
        "attention_4d_with_qk_matmul",
    ),
    "Attention with attribute qk_matmul_output_mode=1": (
        "attention_3d_with_past_and_present_qk_matmul_softcap",
        "attention_4d_with_qk_matmul_softcap",
    ),
    "Attention with attribute qk_matmul_output_mode=2": (
        "attention_3d_with_past_and_present_qk_matmul_bias",
        "attention_4d_with_past_and_present_qk_matmul_bias",
        "attention_4d_with_past_and_present_qk_matmul_bias_3d_mask",
        "attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
        "attention_4d_with_past_and_present_qk_matmul_bias_4d_mask",
        "attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
        "attention_4d_with_qk_matmul_bias",
    ),
    "Attention with attribute qk_matmul_output_mode=3": (
        "attention_23_fullymasked_qk_matmul_output_mode3_zero",
        "attention_24_fullymasked_qk_matmul_output_mode3_zero",
        "attention_24_qk_matmul_output_mode3_softmax_precision",
        "attention_3d_with_past_and_present_qk_matmul_softmax",
        "attention_4d_with_qk_matmul_softmax",
        "attention_local_window_gqa_rank4_mask",
    ),
}
# A cache with room to spare is for generating text.
_CACHE = {
    "Attention with input nonpad_kv_seqlen": (
        "attention_4d_causal_nonpad_attn_mask_composition",
        "attention_4d_causal_nonpad_batch_prefill",
        "attention_4d_causal_nonpad_continued_prefill",
        "attention_4d_causal_nonpad_negative_offset_structural_empty",
        "attention_4d_causal_padded_kv_bf16",
        "attention_4d_diff_heads_mask4d_padded_kv",
        "attention_4d_gqa_causal_nonpad_decode",
        "attention_4d_gqa_causal_nonpad_decode_fp16",
        "attention_4d_padded_kv_bf16",
        "attention_local_window_ext_cache_float16_mask",
        "attention_local_window_ext_cache_rank2_mask",
        "attention_local_window_ext_cache_rank3_head_mask",
        "attention_local_window_ext_cache_rank4_batch_mask",
    ),
}
# Graphs are run as they infer; a graph that drops, or counts batches, says that it is one for training.
_TRAINING = {
    "BatchNormalization with attribute training_mode=1": (
        "batchnorm_epsilon_training_mode",
        "batchnorm_example_training_mode",
    ),
    "Dropout with input training_mode": (
        "training_dropout",
        "training_dropout_default",
        "training_dropout_default_mask",
        "training_dropout_mask",
        "training_dropout_zero_ratio",
        "training_dropout_zero_ratio_mask",
    ),
}
# An attribute of opsets before the oldest here.
_OLD = {"Dropout with attribute ratio": ("dropout_random_old",)}
# Rare in the networks that are healed: places of maxima, boxes cut out while resizing, and a mode of opset 28.
_RARE = {
    "MaxPool with output 2": (
        "maxpool_with_argmax_2d_precomputed_pads",
        "maxpool_with_argmax_2d_precomputed_strides",
    ),
    "Resize with attribute coordinate_transformation_mode='tf_crop_and_resize'": (
        "resize_tf_crop_and_resize",
        "resize_tf_crop_and_resize_axes_2_3",
        "resize_tf_crop_and_resize_axes_3_2",
        "resize_tf_crop_and_resize_extrapolation_value",
    ),
    "SpaceToDepth with attribute mode='CRD'": ("spacetodepth_crd_mode_example",),
}

REFUSED = {**_WINDOWS, **_SCORES, **_CACHE, **_TRAINING, **_OLD, **_RARE}
"""What is missing, as the message says it, to the cases' names."""
