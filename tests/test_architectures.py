"""Rules that the small reference models cannot see, against their formulas."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from running import model_path

from graphsched.gguf.loader import open_model
from graphsched.graph.graph import Graph
from graphsched.graph.opdef import Op
from graphsched.graph.tensor import Tensor, f32
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions


def model(name: str, **changes: Any) -> Model:
    """A tiny model with other hyper-parameters."""
    file = open_model(model_path(name))
    prefix = str(file.metadata["general.architecture"])
    file.metadata = {**file.metadata, **{f"{prefix}.{k}": v for k, v in changes.items()}}
    return Model(file)


def graph(m: Model, n_tokens: int = 4, n_ctx: int = 64) -> Graph:
    return m.graph(n_tokens, n_tokens, n_ctx, SessionOptions())


def attentions(m: Model, **options: Any) -> list[Tensor]:
    return [n for n in graph(m, **options).nodes if n.opdef and n.opdef.op is Op.FLASH_ATTN_EXT]


def rotations(m: Model, **options: Any) -> list[Tensor]:
    """Of the queries, one per layer that rotates."""
    found = [n for n in graph(m, **options).nodes if n.opdef and n.opdef.op is Op.ROPE]
    return found[::2]


def test_gemma_windows() -> None:
    assert [n.attrs["window"] for n in attentions(model("gemma2"))] == [16, 0]
    assert [n.attrs["window"] for n in attentions(model("gemma3"))] == [16] * 5 + [0, 16]
    by_layer = {"attention.sliding_window_pattern": np.array([False, True, False, True, True, False, False])}
    assert [n.attrs["window"] for n in attentions(model("gemma3", **by_layer))] == [0, 16, 0, 16, 16, 0, 0]


def test_gemma3_stretches_far_layers_only() -> None:
    stretched = model("gemma3", **{"rope.scaling.type": "linear", "rope.scaling.factor": 8.0})
    ropes = [n.attrs["rope"] for n in rotations(stretched)]
    assert [r.factor for r in ropes] == [1.0] * 5 + [8.0, 1.0]
    assert [r.base for r in ropes] == [1e4] * 5 + [1e6, 1e4]


@pytest.mark.parametrize(("name", "n_layer"), [("gemma2", 46), ("gemma3", 62)])
def test_gemma_27b_scales_by_the_embedding(name: str, n_layer: int) -> None:
    c: Any = model(name).config
    assert c.scale == 64**-0.5
    assert replace(c, n_layer=n_layer, n_head=4).scale == 32**-0.5


def test_caps_of_gemma() -> None:
    assert [n.attrs["softcap"] for n in attentions(model("gemma2"))] == [5.0, 5.0]
    capped = [
        n.attrs["cap"] for n in graph(model("gemma3", final_logit_softcapping=30.0)).nodes if "cap" in n.attrs
    ]
    assert capped == [30.0]
    assert not [n for n in graph(model("gemma3")).nodes if "cap" in n.attrs]


def test_llama4_layers() -> None:
    m = model("llama4")
    assert [n.attrs["chunk"] for n in attentions(m)] == [8192, 8192, 8192, 0]
    assert len(rotations(m)) == 3
    (scale,) = [n for n in graph(m).nodes if n.opdef and n.opdef.op is Op.TEMPERATURE_SCALE]
    assert scale.attrs == {"length": 8192, "slope": 0.1, "offset": 1}
    no_chunks = model("llama4", **{"attention.sliding_window": 0})
    assert [n.attrs["chunk"] for n in attentions(no_chunks)] == [0] * 4
    assert not [n for n in graph(no_chunks).nodes if n.opdef and n.opdef.op is Op.TEMPERATURE_SCALE]
    assert len(rotations(no_chunks)) == 3


def test_llama4_temperature_formula() -> None:
    from graphsched.graph.ops import temperature_scale

    pos = np.array([0, 8190, 8191, 16382, 16383, 100_000], np.int32)
    x = np.ones((6, 2, 3), np.float32)
    assert temperature_scale.run_reference is not None
    got = temperature_scale.run_reference(x, pos, length=8192, slope=0.1, offset=1)[:, 0, 0]
    expected = [1 + 0.1 * math.log((p + 1) // 8192 + 1) for p in pos.tolist()]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got[1] == 1.0 < got[2]


def test_phi3_takes_long_factors_for_long_contexts() -> None:
    m = model("phi3", **{"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.19})
    m.types |= {f"rope_factors_{k}.weight": f32(32) for k in ("long", "short")}
    short, long = (rotations(m, n_ctx=n)[0] for n in (32, 33))
    assert short.sources[2].name == "rope_factors_short.weight"
    assert long.sources[2].name == "rope_factors_long.weight"
    assert long.attrs["rope"].magnitude == pytest.approx(1.19)


def test_deepseek_yarn() -> None:
    c: Any = model("deepseek2-v3").config
    assert c.scale == pytest.approx((1 + 0.1 * math.log(40)) ** 2 / math.sqrt(96))
    assert c.rope.magnitude == 1.0
    bare: Any = replace(c, yarn_log=0.0)
    assert bare.scale == pytest.approx((1 + 0.1 * math.log(40)) ** 2 / math.sqrt(96))
    assert bare.rope.magnitude == pytest.approx(1 + 0.1 * math.log(40))
    half: Any = replace(c, yarn_log=0.0707)
    assert half.scale == pytest.approx((1 + 0.0707 * math.log(40)) ** 2 / math.sqrt(96))


def test_glm_skips_layers_that_guess_ahead() -> None:
    m = model("glm4moe", nextn_predict_layers=1)
    assert len(attentions(m)) == 2


def test_old_name_of_the_rope_factor() -> None:
    m = model("llama", **{"rope.scale_linear": 4.0})
    assert rotations(m)[0].attrs["rope"].factor == 4.0


def test_a_factor_of_nothing_is_none() -> None:
    assert rotations(model("llama", **{"rope.scaling.factor": 0.0}))[0].attrs["rope"].factor == 1.0


def test_ternary_scales_multiply_products() -> None:
    plain, scaled = model("bitnet"), model("bitnet")
    scaled.types |= {"blk.0.attn_q.scale": f32(1)}
    assert len(graph(scaled).nodes) == len(graph(plain).nodes) + 1


def labels(m: Model, n_tokens: int, op: Op) -> list[str]:
    made = graph(m, n_tokens, n_ctx=512)
    found = [n for n in made.nodes if n.opdef and n.opdef.op is op and made.names[n].startswith("blk.0.")]
    return [made.labels[n] for n in found]


@pytest.mark.parametrize("name", ["deepseek2-lite", "deepseek2-v3"])
def test_labels_of_latent_attention(name: str) -> None:
    """With and without a low-rank query; single tokens absorb, prompts expand."""
    m = model(name)
    low = ["q", "q"] if name.endswith("v3") else ["q"]
    rest = ["kqv_out", "ffn_gate", "ffn_up", "ffn_out"]
    one, many = (labels(m, n, Op.MUL_MAT) for n in (1, 256))
    assert one == [*low, "kv_rope_compressed", "q_nope2", "kqv", *rest]
    assert many == [*low, "kv_rope_compressed", "kv", *rest]
    assert labels(m, 1, Op.ROPE) == ["q_rope", "k_rope"]
    assert (labels(m, 1, Op.CONCAT), labels(m, 256, Op.CONCAT)) == (
        ["kvr", "q"],
        ["kvr", "q_states", "k_states"],
    )


def test_labels_of_joined_projections() -> None:
    m = model("phi3")
    assert labels(m, 4, Op.MUL_MAT) == ["wqkv", "kqv_out", "ffn_up", "ffn_out"]
    assert labels(m, 4, Op.ROPE) == ["Qcur", "Kcur"]
    assert labels(m, 4, Op.VIEW)[:3] == ["Qcur", "Kcur", "Vcur"]
