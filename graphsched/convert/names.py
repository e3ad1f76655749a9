"""Hugging Face's architectures and tensor names -> GGUF's."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from graphsched.gguf.format import MetaValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from graphsched.convert.config import HfConfig

Make = Callable[["HfConfig", "NDArray[np.float32]"], "NDArray[np.float32]"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A GGUF architecture, and how its Hugging Face checkpoints differ from Llama's.

    is_permuted: rows of queries and keys change their order. Hugging Face rotates the halves of a head against
    each other (element j with j + d/2), and so do most GGUF architectures; `llama` and its relatives take neighbours
    (2 j with 2 j + 1): the original Llama weights had that order, and files keep it.
    parts: names of parts of a layer that are not as in `IN_LAYER`; exact: of parts whose names have an end of their
    own. adds_one: norms multiply with one more than what is stored, but for those that keeps_one names. made: what
    whole tensors become, by their part in a file. acts: names of its activation. is_partial: a head may turn in part.
    windows: layers may see a window. counts, numbers, flags: keys of the config and what they are in a file, beside
    those of all; more: further ones, out of the config. fixed: keys that all models of it have. eps: of norms, in the
    config and in a file. has_towers: it reads images, too, which is left out. refused: keys that must have a value, as
    the architecture computes nothing else.
    """

    arch: str
    is_permuted: bool = False
    is_ternary: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)
    adds_one: bool = False
    acts: tuple[str, ...] = ("silu", "swish")
    is_partial: bool = False
    windows: bool = False
    counts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, MetaValue] = field(default_factory=dict)
    eps: tuple[str, str] = ("rms_norm_eps", "attention.layer_norm_rms_epsilon")
    has_towers: bool = False
    exact: Mapping[str, str] = field(default_factory=dict)
    made: "Mapping[str, Make]" = field(default_factory=dict)
    keeps_one: tuple[str, ...] = ()
    more: "Callable[[HfConfig], dict[str, MetaValue]] | None" = None
    refused: Mapping[str, Any] = field(default_factory=dict)


_WHOLE: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.embedding_norm": "token_embd_norm",
    "lm_head": "output",
}
IN_LAYER: Final = {
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
    "mlp.gate_up_proj": "ffn_up",  # both in one, the gate first
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
# Vectors that some checkpoints keep as a matrix of one row.
VECTORS: Final = ("ffn_gate_inp_shexp.weight", "exp_probs_b.bias")
# The bias on the choice of experts, wherever a family has it.
_CHOICE: Final = re.compile(
    r"model\.layers\.(\d{1,4})\.(?:mlp|block_sparse_moe|feed_forward)\.(?:(?:gate|moe_statics|experts)\.)?"
    r"(?:e_score_correction_bias|expert_bias)"
)
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
    "input_linear.weight": ("ffn_gate_exps", "ffn_up_exps"),
    "output_linear.weight": ("ffn_down_exps",),
}
# Computed anew by every engine.
_COMPUTED: Final = re.compile(r".*rotary_emb\.inv_freq")
_LAYER: Final = re.compile(r"model\.layers\.(\d{1,4})\.(.+)\.(weight|bias)")
_ANY: Final = re.compile(r"model\.layers\.(\d{1,4})\.(.+)")
_EXPERT: Final = re.compile(r"(?:mlp|block_sparse_moe|feed_forward)\.experts\.(\d{1,4})\.(\w+)")
_ALL_EXPERTS: Final = re.compile(
    r"model\.layers\.(\d{1,4})\.(?:mlp\.experts\.(gate_up_proj|down_proj)"
    r"|block_sparse_moe\.((?:input|output)_linear\.weight))"
)

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
NEEDED: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def gguf_name(name: str, family: Family) -> tuple[str, int] | None:
    """GGUF's name of a tensor and the expert that it belongs to (0 of none); None if there is no such tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{kind}", 0
    if choice := _CHOICE.fullmatch(name):
        return f"blk.{int(choice[1])}.exp_probs_b.bias", 0
    if (exact := _ANY.fullmatch(name)) and exact[2] in family.exact:
        return f"blk.{int(exact[1])}.{family.exact[exact[2]]}", 0
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match.groups()
    if found := family.parts.get(part, IN_LAYER.get(part)):
        return f"blk.{int(layer)}.{found}.{kind}", 0
    expert = _EXPERT.fullmatch(part)
    if expert is None or expert[2] not in _OF_EXPERT:
        return None
    return f"blk.{int(layer)}.{_OF_EXPERT[expert[2]]}.{kind}", int(expert[1])


def fused_names(name: str) -> tuple[str, ...]:
    """GGUF's names for the tensors stacked in one tensor of all experts, in order; () for any other."""
    match = _ALL_EXPERTS.fullmatch(name)
    if match is None:
        return ()
    return tuple(f"blk.{int(match[1])}.{n}.weight" for n in _FUSED[match[2] or match[3]])


def is_ignored(name: str, family: Family) -> bool:
    """Whether a tensor is computed anew by every engine, or is read with the ternary weight that it scales."""
    is_scale = family.is_ternary and name.endswith(".weight_scale")
    return is_scale or _COMPUTED.fullmatch(name) is not None
