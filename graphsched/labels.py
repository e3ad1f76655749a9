"""Result names of the field: weight stem -> label, and (op, source label) -> label.

Reports group by label, so that their tables read as users of llama.cpp and ik_llama.cpp know them.
"""

from graphsched.opdef import Op
from graphsched.tensor import Tensor

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
}

DERIVED = {
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
    (Op.UNARY, "ffn_moe_gate"): "ffn_moe_silu",
    (Op.MUL, "ffn_moe_silu"): "ffn_moe_gate_par",
    (Op.FUSED_MUL_UNARY, "ffn_moe_gate"): "ffn_moe_gate_par",
    (Op.MUL, "ffn_moe_down"): "ffn_moe_weighted",
    (Op.MULTI_ADD, "ffn_moe_weighted"): "ffn_moe_out",
    (Op.GET_ROWS, "l_out"): "last_ffn_inp",
    (Op.GET_ROWS, "fa"): "last_attn",
    (Op.UNARY, "ffn_gate"): "ffn_silu",
    (Op.MUL, "ffn_silu"): "ffn_gate_par",
    (Op.FUSED_MUL_UNARY, "ffn_gate"): "ffn_gate_par",
}

# Labels of a residual sum, by what is added.
RESIDUALS = {"kqv_out": "ffn_inp", "ffn_out": "l_out", "ffn_moe_out": "l_out", "ffn_shexp": "ffn_out"}
# Ops that keep their first source's label.
KEEP = {Op.RESHAPE, Op.VIEW, Op.PERMUTE, Op.CONT, Op.ROPE, Op.GET_ROWS, Op.MUL, Op.SCALE}
PLAIN = {Op.FLASH_ATTN_EXT: "fa", Op.RMS_NORM: "norm"}


def stem_of(weight: Tensor, op: Op) -> str:
    """blk.3.attn_q.weight -> attn_q; a product with the embedding matrix is the tied output."""
    parts = weight.name.split(".")
    stem = parts[2 if parts[0] == "blk" else 0]
    return "output" if stem == "token_embd" and op is Op.MUL_MAT else stem


def named_weight(node: Tensor) -> Tensor | None:
    """The weight that a node is named after; additions of a bias and rotations keep their operand's name."""
    assert node.opdef is not None
    if node.opdef.op in (Op.ADD, Op.ADD_ID, Op.ROPE):
        return None
    return next((s for s in node.sources if s.kind == "weight"), None)


def label_of(node: Tensor, labels: dict[Tensor, str]) -> str:
    """The label of a node whose sources are labelled."""
    assert node.opdef is not None
    if node.label:
        return node.label
    op = node.opdef.op
    weight = named_weight(node)
    first = next((labels[s] for s in node.sources if s.kind == "node"), "")
    if weight is not None:
        stem = stem_of(weight, op)
        return STEMS.get(stem, stem)
    if op is Op.SET_ROWS:
        return node.sources[0].name.split(".")[-1]
    if op is Op.ADD and node.sources[1].kind == "node":
        second = labels.get(node.sources[1], "")
        return RESIDUALS.get(second, DERIVED.get((op, first), first or "add"))
    if (op, first) in DERIVED:
        return DERIVED[op, first]
    if op in PLAIN:
        return PLAIN[op]
    return first if op in KEEP | {Op.ADD} and first else f"{first}_{node.opdef.name}".strip("_")
