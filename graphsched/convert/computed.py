"""Keys of a family's config that are more than another name for one of its values."""

import numpy as np

from graphsched.convert import delta as delta_rule
from graphsched.convert.config import HfConfig, rotary_part
from graphsched.errors import LoadError
from graphsched.gguf.format import MetaValue, shown


def latent(config: HfConfig) -> dict[str, MetaValue]:
    """Heads of latent attention, of which a part turns, and the factor of a stretched context."""
    nope, turned = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    found: dict[str, MetaValue] = {
        "attention.key_length": nope + turned,
        "attention.value_length": config.count("v_head_dim"),
        "rope.dimension_count": turned,
        "attention.head_count_kv": config.count("num_attention_heads"),
    }
    rope = config.rope
    if "mscale_all_dim" in rope.values:
        factor = rope.number("mscale_all_dim")
        if rope.number("mscale", factor) != factor:
            raise LoadError(f"{rope.where}: mscale and mscale_all_dim differ, which no file can say")
        found["rope.scaling.yarn_log_multiplier"] = 0.1 * factor
    return found


def short_convolutions(config: HfConfig) -> dict[str, MetaValue]:
    """Layers without attention have no heads of keys; the width of the feed-forward may follow from a rule."""
    kinds = config.values.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != config.count("num_hidden_layers"):
        raise LoadError(f"{config.where}: key layer_types is no list with an entry for each layer")
    heads = config.count("num_key_value_heads")
    found: dict[str, MetaValue] = {
        "attention.head_count_kv": np.array([heads * (kind == "full_attention") for kind in kinds], np.int32),
        "shortconv.l_cache": config.count("conv_L_cache"),
    }
    if config.values.get("block_auto_adjust_ff_dim") is True:
        multiple = config.count("block_multiple_of", 256)
        width = int(
            config.number("block_ffn_dim_multiplier", 1.0) * int(2 * config.count("intermediate_size") / 3)
        )
        found["feed_forward_length"] = multiple * -(-width // multiple)
    return found


def leading_dense(config: HfConfig) -> dict[str, MetaValue]:
    """How many layers without experts come first, out of a list of all layers' kinds."""
    kinds = config.values.get("mlp_layer_types")
    n = kinds.count("dense") if isinstance(kinds, list) else -1
    if not isinstance(kinds, list) or kinds != ["dense"] * n + ["sparse"] * (len(kinds) - n):
        raise LoadError(
            f"{config.where}: key mlp_layer_types is no list of dense layers in front of sparse ones"
        )
    return {"leading_dense_block_count": n}


def sharpened(config: HfConfig) -> dict[str, MetaValue]:
    """Queries that grow with the position, and the numbers of a stretched context."""
    rope, found = config.rope, dict[str, MetaValue]()
    names = {
        "llama_4_scaling_beta": "attention.temperature_scale",
        "mscale_all_dim": "rope.scaling.yarn_log_multiplier",
    }
    names |= {"beta_fast": "rope.scaling.yarn_beta_fast", "beta_slow": "rope.scaling.yarn_beta_slow"}
    for name, key in names.items():
        if rope.values.get(name) is not None:
            found[key] = rope.number(name)
    return found


def delta(config: HfConfig) -> dict[str, MetaValue]:
    """Layers of the gated delta rule, and the positions of images, which are all the same in texts."""
    if "mrope_section" in config.rope.values:
        return delta_rule.keys(config) | sections(config)
    half = int(config.head_dim * rotary_part(config)) // 2  # pairs of a head that turn
    plain = np.array([half - 2 * (half // 3), half // 3, half // 3, 0], np.int32)
    return delta_rule.keys(config) | {"rope.dimension_sections": plain}


def sections(config: HfConfig) -> dict[str, MetaValue]:
    """How many pairs of a head turn by each of an image's positions."""
    found = config.rope.values.get("mrope_section")
    if not isinstance(found, list) or not all(type(n) is int and n >= 0 for n in found) or len(found) > 4:
        raise LoadError(f"{config.rope.where}: key mrope_section is no list of up to four numbers")
    return {"rope.dimension_sections": np.array([*found, *[0] * (4 - len(found))], np.int32)}


def window_of_64_layers(config: HfConfig) -> dict[str, MetaValue]:
    """EXAONE 4 sees a window where it has 64 layers, which is all that a file says of it."""
    if config.values.get("sliding_window") is not None and config.count("num_hidden_layers") != 64:
        raise LoadError(
            f"{config.where}: key sliding_window is of models with 64 layers, this one has fewer or more"
        )
    return {}


def pattern_of_windows(config: HfConfig) -> dict[str, MetaValue]:
    """Every how many layers one sees everything, said as a number or drawn, as in LLLG."""
    said = config.values.get("sliding_window_pattern")
    if said is None:
        return {}
    every = len(said) if isinstance(said, str) else config.count("sliding_window_pattern")
    if isinstance(said, str) and said != "L" * (every - 1) + "G":
        raise LoadError(f"{config.where}: key sliding_window_pattern is {shown(said)}, as in LLLG is needed")
    return {"attention.sliding_window_pattern": every}
