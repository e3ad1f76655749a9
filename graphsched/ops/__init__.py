"""The op table: importing this module declares every op."""

from graphsched.ops.attention import flash_attn_ext, soft_cap_max, soft_max
from graphsched.ops.elementwise import (
    add,
    clamp,
    div,
    fused_mul_unary,
    gelu,
    mul,
    relu,
    scale,
    sigmoid,
    silu,
    softcap,
    sqr,
    sum_rows,
    unary,
)
from graphsched.ops.matmul import add_id, moe_fused_up_gate, mul_mat, mul_mat_id, mul_mat_qkv
from graphsched.ops.moe import grouped_top_k, multi_add, swiglu_oai, top_k, topk_moe
from graphsched.ops.movement import concat, cont, copy_f32, get_rows, permute, repeat, reshape, set_rows, view
from graphsched.ops.norm import fused_add_rms_norm, fused_rms_norm, rms_norm
from graphsched.ops.rope import Rope, fused_rope, rope, temperature_scale
from graphsched.ops.several import part

__all__ = [
    "Rope",
    "add",
    "add_id",
    "clamp",
    "concat",
    "cont",
    "copy_f32",
    "div",
    "flash_attn_ext",
    "fused_add_rms_norm",
    "fused_mul_unary",
    "fused_rms_norm",
    "fused_rope",
    "gelu",
    "get_rows",
    "grouped_top_k",
    "moe_fused_up_gate",
    "mul",
    "mul_mat",
    "mul_mat_id",
    "mul_mat_qkv",
    "multi_add",
    "part",
    "permute",
    "relu",
    "repeat",
    "reshape",
    "rms_norm",
    "rope",
    "scale",
    "set_rows",
    "sigmoid",
    "silu",
    "soft_cap_max",
    "soft_max",
    "softcap",
    "sqr",
    "sum_rows",
    "swiglu_oai",
    "temperature_scale",
    "top_k",
    "topk_moe",
    "unary",
    "view",
]
