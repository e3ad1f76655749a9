"""Qwen's gated delta rule: tensors whose value heads a file of Qwen 3.5 has in another order than a checkpoint.

A checkpoint keeps the value heads together that share a key head; in a file value head j has key head j mod n_key.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.convert.config import HfConfig
from graphsched.convert.names import Make
from graphsched.errors import LoadError
from graphsched.gguf.format import MetaValue

Floats = NDArray[np.float32]
NAMES: Final = {
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "post_attention_layernorm": "post_attention_norm",
}
EXACT: Final = {"linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.A_log": "ssm_a"}


def keys(config: HfConfig) -> dict[str, MetaValue]:
    """Heads and widths of the rule, and which layers attend."""
    n_value, width = config.count("linear_num_value_heads"), config.count("linear_value_head_dim")
    kinds = config.values.get("layer_types")
    every = kinds.index("full_attention") + 1 if isinstance(kinds, list) and "full_attention" in kinds else 0
    if not every or any(
        (i % every == every - 1) != (kind == "full_attention") for i, kind in enumerate(kinds or ())
    ):
        raise LoadError(f"{config.where}: key layer_types has not one full_attention in so many layers")
    return {
        "ssm.conv_kernel": config.count("linear_conv_kernel_dim"),
        "ssm.state_size": config.count("linear_key_head_dim"),
        "ssm.group_count": config.count("linear_num_key_heads"),
        "ssm.time_step_rank": n_value,
        "ssm.inner_size": n_value * width,
        "full_attention_interval": every,
    }


def _order(config: HfConfig) -> NDArray[np.intp]:
    """The checkpoint's value head at each place of a file."""
    n_key, n_value = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
    if n_value % n_key:
        raise LoadError(f"{config.where}: {n_key} key heads do not divide {n_value} value heads")
    return np.arange(n_value).reshape(n_key, -1).T.reshape(-1)


def _heads(config: HfConfig, w: Floats) -> Floats:
    """One row, or number, for each value head."""
    return w[_order(config)]


def _rows(config: HfConfig, w: Floats) -> Floats:
    """As many rows for each value head as it is wide."""
    order = _order(config)
    return w.reshape(len(order), -1, *w.shape[1:])[order].reshape(w.shape)


def _behind_keys(config: HfConfig, w: Floats) -> Floats:
    """Rows of queries and keys, then of values; of a convolution without its axis of one."""
    w = _squeezed(config, w)
    n = 2 * config.count("linear_num_key_heads") * config.count("linear_key_head_dim")
    return np.concatenate([w[:n], _rows(config, w[n:])])


def _columns(config: HfConfig, w: Floats) -> Floats:
    return np.ascontiguousarray(_rows(config, w.T).T)


def _decay(config: HfConfig, w: Floats) -> Floats:
    return _exponent(config, _heads(config, w))


def _squeezed(config: HfConfig, w: Floats) -> Floats:
    """A convolution without its axis of one."""
    return w.reshape(w.shape[0], w.shape[-1])


def _exponent(config: HfConfig, w: Floats) -> Floats:
    """The factor of the exponent, of which a checkpoint has the logarithm."""
    return -np.exp(w)


# Qwen 3 Next, whose files keep the checkpoint's order
GROUPED_NAMES: Final = {
    "linear_attn.in_proj_qkvz": "ssm_in",
    "linear_attn.in_proj_ba": "ssm_ba",
    **{name: part for name, part in NAMES.items() if "in_proj" not in name},
}
GROUPED: Final[dict[str, Make]] = {
    "ssm_conv1d.weight": _squeezed,
    "ssm_a": _exponent,
}
MADE: Final[dict[str, Make]] = {
    "attn_qkv.weight": _behind_keys,
    "ssm_conv1d.weight": _behind_keys,
    "attn_gate.weight": _rows,
    "ssm_alpha.weight": _heads,
    "ssm_beta.weight": _heads,
    "ssm_dt.bias": _heads,
    "ssm_a": _decay,
    "ssm_out.weight": _columns,
}
