"""Latent attention in its four variants, what it caches, and weights derived from others."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from running import EXACT, check, model_path, nmse, reference
from shared import FILES, references

import graphsched
from graphsched.arch import Inputs, Weights, get
from graphsched.gguf.loader import open_model
from graphsched.graph.graph import from_outputs
from graphsched.graph.tensor import TensorType, f32
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.summary import kv_bytes_per_token
from graphsched.types import dtypes

MODELS = ["deepseek2-short", "deepseek2-v3"]
OF_THE_FILES = ["deepseek2-lite", "deepseek2-v3"]


def long_prompt(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """The reference's tokens and more, so many that latents are expanded."""
    more = np.random.default_rng(1).integers(3, 512, 200 - len(tokens))
    return np.concatenate([tokens, more]).astype(np.int32)


def run(path: Path, tokens: NDArray[np.int32], **options: Any) -> NDArray[np.float32]:
    """Everything at once, then ten tokens one by one."""
    session = graphsched.load(path, n_ctx=256, **options)
    rows = [session.eval(tokens, all_logits=True), *(session.eval([int(t)]) for t in tokens[:10])]
    session.close()
    return np.concatenate(rows)


@pytest.mark.parametrize("n", [1, 24, 200])
@pytest.mark.parametrize("name", MODELS)
def test_variants_agree(name: str, n: int) -> None:
    ref = reference(name)
    tokens = long_prompt(ref.tokens)[:n]
    plain, *others = (run(ref.model, tokens, mla=mla, **EXACT) for mla in range(4))
    assert max(nmse(other, plain) for other in others) <= 1e-6


@pytest.mark.parametrize("mla", range(4))
@pytest.mark.parametrize("name", [*MODELS, *references(OF_THE_FILES)])
def test_variants_agree_with_the_reference(name: str, mla: int) -> None:
    ref = reference(name)
    for n in (32, 200):
        check(name, run(ref.model, long_prompt(ref.tokens)[:n], mla=mla)[:32], ref.logits)


def on_reference() -> list[Any]:
    """Models and variants; of the files the variant that is the default."""
    files = [pytest.param(FILES[name], 3, marks=pytest.mark.reference) for name in OF_THE_FILES]
    return [*itertools.product(MODELS, range(4)), *files]


@pytest.mark.parametrize(("name", "mla"), on_reference())
def test_variants_on_reference(name: str, mla: int) -> None:
    ref = reference(name)
    check(name, run(ref.model, long_prompt(ref.tokens), mla=mla, backend="reference")[:32], ref.logits)


def test_bits_do_not_depend_on_threads() -> None:
    ref = reference(MODELS[1])
    for mla in (1, 3):
        one, two = (run(ref.model, long_prompt(ref.tokens), mla=mla, n_threads=n) for n in (1, 2))
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("kind", ["q8_0", "q8_KV"])
def test_a_quantised_cache_is_close(kind: str) -> None:
    ref = reference(MODELS[1])
    for mla in range(4):
        assert nmse(run(ref.model, ref.tokens, mla=mla, type_k=kind, type_v=kind)[:32], ref.logits) < 1e-2


def inputs_of(mla: int, n_tokens: int) -> set[str]:
    model = Model(open_model(model_path(MODELS[1])))
    leaves = model.graph(n_tokens, 1, 64, SessionOptions(mla=mla)).leaves
    return {leaf.name for leaf in leaves if leaf.kind == "input"}


def test_prompts_expand_and_tokens_absorb() -> None:
    assert "inp_own_ids" not in inputs_of(1, 512)
    assert "inp_own_ids" in inputs_of(3, 512)
    assert "inp_own_ids" not in inputs_of(3, 1)


def test_parts_are_derived_both_ways() -> None:
    """attn_kv_b out of its parts, and the parts out of it again."""
    v3 = Model(open_model(model_path(MODELS[1])))
    c: Any = v3.config
    assert sorted(v3.derived) == [f"blk.{i}.attn_kv_b.weight" for i in range(c.n_layer)]
    kv = dtypes.F16.dequantize(v3.weights["blk.0.attn_kv_b.weight"], (c.n_head * (c.nope + c.v_dim), c.rank))
    heads = kv.reshape(c.n_head, c.nope + c.v_dim, c.rank)
    np.testing.assert_array_equal(heads[:, : c.nope].swapaxes(1, 2), v3.file.array("blk.0.attn_k_b.weight"))
    np.testing.assert_array_equal(heads[:, c.nope :], v3.file.array("blk.0.attn_v_b.weight"))

    lite = Model(open_model(model_path(MODELS[0])))
    c = lite.config
    k = dtypes.F16.dequantize(lite.weights["blk.3.attn_k_b.weight"], (c.n_head, c.rank, c.nope))
    kv = lite.file.array("blk.3.attn_kv_b.weight").reshape(c.n_head, -1, c.rank)
    np.testing.assert_array_equal(k.swapaxes(1, 2), kv[:, : c.nope])
    assert "blk.3.attn_v_b.weight" in lite.types  # where -ot finds it


def r1_layer(n_head: int) -> dict[str, TensorType]:
    """Attention and a small feed-forward of a layer with DeepSeek-R1's dimensions."""
    heads = n_head * 128
    shapes = {
        "attn_norm": (64,),
        "attn_q": (n_head * 192, 64),
        "attn_kv_a_mqa": (576, 64),
        "attn_kv_a_norm": (512,),
        "attn_kv_b": (2 * heads, 512),
        "attn_k_b": (n_head, 512, 128),
        "attn_v_b": (n_head, 128, 512),
        "attn_output": (64, heads),
        "ffn_norm": (64,),
        "ffn_gate": (32, 64),
        "ffn_up": (32, 64),
        "ffn_down": (64, 32),
    }
    return {f"{name}.weight": f32(*shape) for name, shape in shapes.items()}


def cached_bytes(mla: int, n_head: int, kv: dtypes.DType) -> int:
    """Bytes per token of a model with DeepSeek-R1's 61 layers and head sizes."""
    architecture = get("deepseek2", "x.gguf")
    known: dict[str, Any] = {
        "n_layer": 61,
        "n_embd": 64,
        "n_ctx_train": 4096,
        "n_head": n_head,
        "head_dim": 192,
        "v_dim": 128,
        "rank": 512,
        "rope_dim": 64,
        "rope_base": 1e4,
        "rope_scaling": "none",
        "rope_factor": 1.0,
        "rope_context": 4096,
        "rope_attn_factor": 1.0,
        "rms_eps": 1e-6,
        "n_draft": 0,
        "rope_sections": (),
        "yarn_log": 0.0,
        "gating": 1,
        "n_expert": 0,
        "n_expert_used": 0,
        "normalised": False,
        "weights_scale": 0.0,
        "n_group": 0,
        "n_group_used": 0,
    }
    config = architecture.config(**known)
    types = {"token_embd.weight": f32(8, 64), "output_norm.weight": f32(64)}
    types |= {f"blk.{i}.{name}": t for i in range(61) for name, t in r1_layer(n_head).items()}
    logits = architecture.build(config, Weights(types, "x.gguf", n_layer=61), Inputs(1, 1, 1, (kv, kv), mla))
    return kv_bytes_per_token(from_outputs(logits))


# DeepSeek-R1: 61 layers of 128 heads, keys 192 and values 128, latents 512 + 64. The field's table has 610 for
# variant 0, which is 16 heads.
@pytest.mark.parametrize(
    ("mla", "n_head", "kib"),
    [(0, 16, 610.0), (0, 128, 4880.0), (1, 128, 129.6), (2, 128, 68.6), (3, 128, 68.6)],
)
def test_cached_bytes_per_token(mla: int, n_head: int, kib: float) -> None:
    assert round(cached_bytes(mla, n_head, dtypes.F16) / 1024, 1) == kib


def test_cached_bytes_per_token_quantised() -> None:
    assert round(cached_bytes(3, 128, dtypes.Q8_0) / 1024, 1) == 36.5
    assert cached_bytes(3, 128, dtypes.Q5_1) == 61 * 576 // 32 * 24
    assert cached_bytes(3, 128, dtypes.Q8_KV) == 61 * (576 + 8)


def test_temporaries_are_bounded() -> None:
    """Expanded keys and values of as many heads at once as fit; the same bits, however many."""
    ref = reference(MODELS[1])
    model, tokens = Model(open_model(ref.model)), long_prompt(ref.tokens)

    def products(n_ctx: int, amb: int) -> list[int]:
        nodes = model.graph(512, 1, n_ctx, SessionOptions(amb=amb)).nodes
        return [int(n.shape[1]) for n in nodes if n.opdef and n.sources[0].name == "blk.0.attn_kv_b.weight"]

    width = 4 * (64 + 64)  # four heads
    assert products(1024, 4) == [width]  # 4 heads · 224 floats · 1024 cells are 3.5 MiB
    assert products(1024, 2) == [width // 2] * 2
    assert products(1024, 1) == [width // 4] * 4
    assert products(1 << 20, 1) == [width // 4] * 4  # one head at least
    whole, parts = (wide_run(ref.model, tokens, amb) for amb in (64, 1))
    np.testing.assert_array_equal(whole, parts)


def wide_run(path: Path, tokens: NDArray[np.int32], amb: int) -> NDArray[np.float32]:
    session = graphsched.load(path, n_ctx=2048, amb=amb)
    logits = session.eval(tokens, all_logits=True)
    session.close()
    return logits
