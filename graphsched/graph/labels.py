"""Result names of the field: weight stem -> label, and (op, source label) -> label.

Reports group by label, so that their tables read as users of llama.cpp and ik_llama.cpp know them.
"""

from graphsched.graph.opdef import AnyOp, Op
from graphsched.graph.tensor import Tensor

STEMS = {
    "token_embd": "inp_embd",
    "output_norm": "result_norm",
    "output": "result_output",
    "attn_q": "Qcur",
    "attn_k": "Kcur",
    "attn_v": "Vcur",
    "attn_qkv": "wqkv",
    "attn_q_norm": "Qcur_normed",
    "attn_k_norm": "Kcur_normed",
    "attn_output": "kqv_out",
    "ffn_down": "ffn_out",
    "ffn_gate_inp": "ffn_moe_logits",
    "ffn_up_exps": "ffn_moe_up",
    "ffn_gate_exps": "ffn_moe_gate",
    "ffn_down_exps": "ffn_moe_down",
    "ffn_down_shexp": "ffn_shexp",
    "ffn_gate_inp_shexp": "shared_expert_gate",
    "attn_kv_a_mqa": "kv_rope_compressed",
    "attn_kv_a_norm": "kv_compressed",
    "attn_kv_b": "kv",
    "attn_q_a": "q",
    "attn_q_a_norm": "q",
    "attn_q_b": "q",
    "attn_k_b": "q_nope2",
    "attn_v_b": "kqv",
    "post_attention_norm": "attn_post_norm",
    "post_ffw_norm": "ffn_post_norm",
    "ssm_alpha": "alpha",
    "ssm_beta": "beta",
    "ssm_a": "gate",
}

DERIVED: dict[tuple[AnyOp, str], str] = {
    (Op.SOFT_MAX, "ffn_moe_logits"): "ffn_moe_probs",
    (Op.UNARY, "ffn_moe_logits"): "ffn_moe_probs",
    (Op.ADD, "ffn_moe_probs"): "ffn_moe_probs_biased",
    (Op.ARGSORT, "ffn_moe_logits"): "ffn_moe_topk",
    (Op.ARGSORT, "ffn_moe_probs"): "ffn_moe_topk",
    (Op.ARGSORT, "ffn_moe_probs_biased"): "ffn_moe_topk",
    (Op.GROUPED_TOPK, "ffn_moe_probs_biased"): "ffn_moe_topk",
    (Op.GET_ROWS, "ffn_moe_probs"): "ffn_moe_weights",
    (Op.GET_ROWS, "ffn_moe_logits"): "ffn_moe_weights",
    (Op.SUM_ROWS, "ffn_moe_weights"): "ffn_moe_weights_sum",
    (Op.DIV, "ffn_moe_weights"): "ffn_moe_weights_norm",
    (Op.SCALE, "ffn_moe_weights"): "ffn_moe_weights_scaled",
    (Op.SCALE, "ffn_moe_weights_norm"): "ffn_moe_weights_scaled",
    (Op.CLAMP, "ffn_moe_weights_sum"): "ffn_moe_weights_sum_clamped",
    (Op.SOFT_MAX, "ffn_moe_weights"): "ffn_moe_weights_softmax",
    (Op.UNARY, "ffn_moe_weights"): "ffn_moe_weights",
    (Op.REPEAT, "ffn_norm"): "ffn_moe_repeated",
    (Op.MUL, "ffn_moe_repeated"): "ffn_moe_weighted",
    (Op.FUSED_MUL_UNARY, "ffn_moe_gate"): "ffn_moe_gate_par",
    (Op.ADD_ID, "ffn_moe_gate"): "ffn_moe_gate_biased",
    (Op.ADD_ID, "ffn_moe_up"): "ffn_moe_up_biased",
    (Op.ADD_ID, "ffn_moe_down"): "ffn_moe_down_biased",
    (Op.SWIGLU_OAI, "ffn_moe_gate_biased"): "ffn_moe_gate_par",
    (Op.MUL, "ffn_moe_down"): "ffn_moe_weighted",
    (Op.MUL, "ffn_moe_down_biased"): "ffn_moe_weighted",
    (Op.MULTI_ADD, "ffn_moe_weighted"): "ffn_moe_out",
    (Op.MULTI_ADD, "ffn_moe_down"): "ffn_moe_out",
    (Op.SUM_ROWS, "shared_expert_gate"): "shared_expert_gate",
    (Op.UNARY, "shared_expert_gate"): "shared_expert_gate_sigmoid",
    (Op.GET_ROWS, "l_out"): "last_ffn_inp",
    (Op.GET_ROWS, "fa"): "last_attn",
    (Op.GET_ROWS, "kqv"): "last_attn",
    (Op.GET_ROWS, "kqv_compressed"): "last_attn",
    (Op.FUSED_MUL_UNARY, "ffn_gate"): "ffn_gate_par",
    (Op.FUSED_MUL_UNARY, "ffn_up"): "ffn_gate_par",
    (Op.FUSED_MUL_UNARY, "ffn_gate_shexp"): "ffn_gate_par",
    (Op.SQR, "ffn_relu"): "ffn_sqr(relu)",
    (Op.MUL, "ffn_sqr(relu)"): "ffn_gate_par",
    (Op.RMS_NORM, "Qcur"): "Qcur_normed",
    (Op.RMS_NORM, "Kcur"): "Kcur_normed",
    (Op.SCALE, "inp_embd"): "inp_scaled",
    (Op.ROPE, "q"): "q_rope",
    (Op.ROPE, "kv_rope_compressed"): "k_rope",
    (Op.CONCAT, "kv_compressed"): "kvr",
    (Op.CONCAT, "q_nope2"): "q",
    (Op.CONCAT, "q"): "q_states",
    (Op.CONCAT, "kv"): "k_states",
    (Op.CPY, "cache_k"): "kv_cache",
    (Op.FLASH_ATTN_EXT, "q"): "kqv_compressed",
    (Op.FLASH_ATTN_EXT, "q_states"): "kqv",
    (Op.RESHAPE, "kqv"): "kqv_2d",
    (Op.UNARY, "Qcur"): "gate_sigmoid",
    (Op.FUSED_MUL_UNARY, "Qcur"): "attn_gated",
    (Op.UNARY, "conv_output"): "conv_output_silu",
    (Op.UNARY, "alpha"): "a_softplus",
    (Op.UNARY, "beta"): "beta_sigmoid",
    (Op.FUSED_MUL_UNARY, "attn_gate"): "final_output",
}
# A gate's activation, ffn_silu or ffn_moe_gelu, and its product with what it gates.
GATES = {"ffn_gate": "ffn", "ffn_up": "ffn", "ffn_gate_shexp": "ffn", "ffn_moe_gate": "ffn_moe"}
DERIVED |= {
    (Op.MUL, f"{g}_{kind}"): f"{g}_gate_par" for g in ("ffn", "ffn_moe") for kind in ("silu", "gelu", "relu")
}

# Labels of a residual sum, by what is added.
RESIDUALS = {
    "kqv_out": "ffn_inp",
    "ssm_out": "ffn_inp",
    "shortconv.out_proj": "ffn_inp",
    "ffn_out": "l_out",
    "ffn_moe_out": "l_out",
    "ffn_shexp": "ffn_out",
    "attn_post_norm": "sa_out",
    "ffn_post_norm": "l_out",
}


def stem_of(weight: Tensor, reader: Tensor) -> str:
    """blk.3.attn_q.weight -> attn_q; read by a product, the embedding matrix is the tied output."""
    parts = weight.name.removesuffix(".weight").split(".")
    stem = ".".join(parts[2:] if parts[0] == "blk" else parts)
    return "output" if stem == "token_embd" and reader.traits.product else stem


def named_weight(node: Tensor) -> Tensor | None:
    """The weight that names a node; None for ops that keep their operand's name, as biases and rotations do."""
    if not node.traits.named_by_weight:
        return None
    return next((s for s in node.sources if s.kind == "weight"), None)


def label_of(node: Tensor, labels: dict[Tensor, str]) -> str:
    """The label of a node whose sources are labelled."""
    if node.label:
        return node.label
    op, traits = node.op, node.traits
    weight = named_weight(node)
    first = next((labels[s] for s in node.sources if s.kind == "node"), "")
    if weight is not None:
        stem = stem_of(weight, node)
        return STEMS.get(stem, stem)
    if traits.writes_cache:
        return node.operand(traits.writes_cache).name.split(".")[-1]
    # A residual sum is named for what it adds: ffn_inp behind attention, l_out behind a feed-forward.
    if op is Op.ADD and node.sources[1].kind == "node":
        second = labels.get(node.sources[1], "")
        return RESIDUALS.get(second, DERIVED.get((op, first), first or "add"))
    if op is Op.UNARY and first in GATES:
        return f"{GATES[first]}_{node.attrs['kind']}"
    if (op, first) in DERIVED:
        return DERIVED[op, first]
    if traits.label:
        return traits.label
    return first if traits.keeps_label and first else f"{first}_{node.declaration.name}".strip("_")
