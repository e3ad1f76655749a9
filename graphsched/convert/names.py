"""Hugging Face's architectures and tensor names -> GGUF's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Family:
    """A GGUF architecture.

    `is_permuted`: rows of queries and keys change their order. Hugging Face rotates the halves of a head against
    each other (element j with j + d/2), and so do all GGUF architectures but `llama`, whose rotation takes neighbours
    (2 j with 2 j + 1): the original Llama weights had that order, and files keep it.
    """

    arch: str
    is_permuted: bool = False
    is_ternary: bool = False


FAMILIES: Final = {
    "LlamaForCausalLM": Family("llama", is_permuted=True),
    "MistralForCausalLM": Family("llama", is_permuted=True),
    "MixtralForCausalLM": Family("llama", is_permuted=True),
    "Qwen2ForCausalLM": Family("qwen2"),
    "Qwen3ForCausalLM": Family("qwen3"),
    "Qwen3MoeForCausalLM": Family("qwen3moe"),
    "BitnetForCausalLM": Family("bitnet", is_ternary=True),
    "BitNetForCausalLM": Family("bitnet-b1.58", is_ternary=True),
}
_WHOLE: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_IN_LAYER: Final = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "self_attn.inner_attn_ln": "attn_sub_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
    "mlp.ffn_layernorm": "ffn_sub_norm",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_OF_EXPERT: Final = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}
# All experts of a layer in one tensor, as transformers 5 has them; of gate and up both.
_FUSED: Final = {
    "gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"),
    "down_proj": ("ffn_down_exps",),
}
# Computed anew by every engine.
_COMPUTED: Final = re.compile(r".*rotary_emb\.inv_freq")
_LAYER: Final = re.compile(r"model\.layers\.(\d{1,4})\.(.+)\.(weight|bias)")
_EXPERT: Final = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d{1,4})\.(\w+)")
_ALL_EXPERTS: Final = re.compile(r"model\.layers\.(\d{1,4})\.mlp\.experts\.(gate_up_proj|down_proj)")

# config.json -> the GGUF key behind the architecture's prefix; all are positive integers
COUNTS: Final = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "vocab_size": "vocab_size",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
NEEDED: Final = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size")


def gguf_name(name: str) -> tuple[str, int] | None:
    """GGUF's name of a tensor and the expert that it belongs to (0 of none); None if there is no such tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}", 0
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match.groups()
    if part in _IN_LAYER:
        return f"blk.{int(layer)}.{_IN_LAYER[part]}.{kind}", 0
    expert = _EXPERT.fullmatch(part)
    if expert is None or expert[2] not in _OF_EXPERT:
        return None
    return f"blk.{int(layer)}.{_OF_EXPERT[expert[2]]}.{kind}", int(expert[1])


def fused_names(name: str) -> tuple[str, ...]:
    """GGUF's names for the tensors stacked in one tensor of all experts, in order; () for any other."""
    match = _ALL_EXPERTS.fullmatch(name)
    return () if match is None else tuple(f"blk.{int(match[1])}.{n}.weight" for n in _FUSED[match[2]])


def is_ignored(name: str, family: Family) -> bool:
    """Whether a tensor is computed anew by every engine, or is read with the ternary weight that it scales."""
    is_scale = family.is_ternary and name.endswith(".weight_scale")
    return is_scale or _COMPUTED.fullmatch(name) is not None


def of_architecture(names: object, where: str, known: Mapping[str, Family] = FAMILIES) -> Family:
    """The family that `architectures` of a config names."""
    from graphsched.errors import LoadError
    from graphsched.gguf.format import shown

    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    if name not in known:
        what = f"architecture {shown(name)}" if name else "no architecture"
        raise LoadError(f"{where}: {what}; convert knows {', '.join(known)}")
    return known[name]
