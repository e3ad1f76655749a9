"""Attention without flash attention (-fa 0): products and softmax as nodes of their own, the same results."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from running import EXACT, WAYS, check, in_turn, logits_in_pieces, model_path, nmse, reference
from tiny.files import SHORT_MODELS as MODELS

import graphsched
from graphsched.cli import main as cli
from graphsched.gguf.loader import open_model
from graphsched.graph.opdef import Op
from graphsched.predict.plan import make_plan
from graphsched.schedule.placement import PlacementOptions
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions

APART: dict[str, Any] = {"off": frozenset({"fa"})}
LATENT = [name for name in MODELS if "deepseek2" in name]
# Those that differ in their attention; the others are slow tests.
DIFFERENT = ["llama", "gemma2", "gpt-oss", "llama4", "qwen3moe", "deepseek2-v3"]
ALIKE = [name for name in MODELS if name not in DIFFERENT]
BY_DEFAULT = [*DIFFERENT, *(pytest.param(n, marks=pytest.mark.slow) for n in ALIKE)]


def tokens(n: int) -> Any:
    return np.random.default_rng(5).integers(3, 512, n)


def opened(name: str) -> Model:
    return Model(open_model(model_path(name)))


def ops(model: Model, n_tokens: int = 1, **options: Any) -> list[tuple[str, str]]:
    """(op, label) of every node of the first layer."""
    graph = model.graph(n_tokens, 1, 64, SessionOptions(n_ctx=64, **options))
    return [
        (n.opdef.op.name, graph.labels[n])
        for n in graph.nodes
        if n.opdef and graph.names[n].startswith("blk.0.")
    ]


@pytest.mark.parametrize(
    ("name", "way"), [*in_turn(DIFFERENT, WAYS), *in_turn(ALIKE, WAYS, pytest.mark.slow)]
)
def test_agrees_with_flash_attention(name: str, way: tuple[int, int]) -> None:
    ref, (first, n_ubatch) = reference(name), way
    one, apart = (
        logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, n_threads=2, **EXACT, **o)
        for o in ({}, APART)
    )
    assert nmse(apart, one) <= 1e-6
    check(name, logits_in_pieces(ref.model, ref.tokens, first, n_ubatch=n_ubatch, **APART), ref.logits)


@pytest.mark.parametrize("name", MODELS)
def test_reference_backend_agrees(name: str) -> None:
    ref = reference(name)
    cpu, plain = (
        logits_in_pieces(ref.model, ref.tokens, 24, backend=b, **EXACT, **APART) for b in ("cpu", "reference")
    )
    assert nmse(cpu, plain) <= 1e-6


@pytest.mark.parametrize("n", [1, 24, 200])
@pytest.mark.parametrize("mla", range(4))
@pytest.mark.parametrize("name", LATENT)
def test_latent_variants_agree(name: str, mla: int, n: int) -> None:
    got = []
    for options in ({}, APART):
        session = graphsched.load(model_path(name), n_ctx=256, mla=mla, **options, **EXACT)
        got.append(session.eval(tokens(n), all_logits=True))
    assert nmse(got[1], got[0]) <= 1e-6


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0", "q5_1", "iq4_nl", "q8_KV"])
@pytest.mark.parametrize("name", ["llama", "deepseek2-v3"])
def test_cache_types(name: str, kv: str) -> None:
    ref = reference(name)
    one, apart = (logits_in_pieces(ref.model, ref.tokens, 24, type_k=kv, type_v=kv, **o) for o in ({}, APART))
    assert nmse(apart, one) <= 1e-6


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_bits_depend_on_neither_threads_nor_placement_nor_fusion(name: str) -> None:
    ref = reference(name)
    host, *others = (
        logits_in_pieces(ref.model, ref.tokens, 24, **{**APART, **o})
        for o in (
            {"n_threads": 1},
            {"n_threads": 3},
            {"off": frozenset({"fa", "fmoe", "fused-mul-unary", "fused-rms-norm"})},
            {"devices": ("sim:2x3090",), "poison": True},
            {
                "devices": ("sim:rtx4090",),
                "poison": True,
                "placement": PlacementOptions(overrides=("attn_k=CPU", "ffn=CPU"), kv_offload=False),
            },
        )
    )
    for other in others:
        np.testing.assert_array_equal(other, host)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt-oss"])
def test_rings(name: str) -> None:
    ids, got = tokens(600), []
    for options in (APART, {**APART, "swa_full": True}, {}):
        session = graphsched.load(model_path(name), n_ctx=1024, n_ubatch=64, **EXACT, **options)
        got.append(np.concatenate([session.eval(ids[:590], all_logits=True), session.eval(ids[590:591])]))
    assert nmse(got[0], got[1]) <= 1e-9
    assert nmse(got[0], got[2]) <= 1e-6


def test_nodes_and_labels() -> None:
    found = ops(opened("llama"), **APART)
    assert [pair for pair in found if pair[1] in ("kq", "kq_soft_max_ext", "kqv")] == [
        ("MUL_MAT", "kq"),
        ("SOFT_MAX", "kq_soft_max_ext"),
        ("MUL_MAT", "kqv"),
    ]
    assert "FLASH_ATTN_EXT" not in dict(found)
    assert ("SOFT_CAP_MAX", "kq_soft_max_ext") in ops(opened("gemma2"), **APART)
    latent = ops(opened("deepseek2-v3"), **APART)
    assert ("MUL_MAT", "kqv_compressed") in latent
    assert ("MUL_MAT", "kqv") in latent


def test_a_plan_puts_the_products_beside_the_cache() -> None:
    options = SessionOptions(n_ctx=64, devices=("sim:rtx4090",), **APART)
    plan = make_plan(opened("llama"), options, 1, 1, 32)
    products = [n for n in plan.schedule.graph.nodes if plan.schedule.graph.labels[n] in ("kq", "kqv")]
    assert {plan.cause(n) for n in products} == {"1.kv"}
    assert {plan.schedule.assignment.device[n] for n in products} == {"sim0"}
    (kq, *_) = products
    assert kq.opdef is not None
    assert kq.opdef.op is Op.MUL_MAT
    assert plan.bytes_of(kq) == 4 * 32 * kq.shape[1]


FLAGS = [("-fa 0", False), ("-no-fa", False), ("-fa off", False), ("-fa 1", True), ("-fa auto", True)]


@pytest.mark.parametrize(("flag", "is_on"), FLAGS)
def test_flag(flag: str, is_on: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "--json", *flag.split()]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["fa"] is is_on


def test_flag_with_another_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "-fa", "2"]) == 2
    assert capsys.readouterr().err == "graphsched: -fa is 2, 0, 1 or auto is needed\n"


def test_the_table_of_a_plan_says_that_it_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "-fa", "0"]) == 0
    assert "; off: fa" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("first", "n_ubatch"), WAYS)
@pytest.mark.parametrize("name", BY_DEFAULT)
def test_every_variant_agrees(name: str, first: int, n_ubatch: int) -> None:
    """Threads, flash attention, fusions, and the four variants of latent attention, all with all."""
    ref = reference(name)
    whole = logits_in_pieces(ref.model, ref.tokens, 24, **EXACT)
    fusions = frozenset(("fmoe", "fused-mul-unary", "fused-rms-norm"))
    for n_threads, fa, fused, mla in itertools.product(
        (1, 2), (True, False), (True, False), range(4) if name in LATENT else (3,)
    ):
        off = (frozenset() if fused else fusions) | (frozenset() if fa else APART["off"])
        options: dict[str, Any] = {"n_threads": n_threads, "n_ubatch": n_ubatch, "mla": mla, "off": off}
        got = logits_in_pieces(ref.model, ref.tokens, first, **options, **EXACT)
        assert nmse(got, whole) <= 1e-6, options


@pytest.mark.parametrize(
    "mla", [pytest.param(n, marks=pytest.mark.slow if n in (1, 2) else ()) for n in range(4)]
)
@pytest.mark.parametrize("name", LATENT)
def test_latent_variants_on_simulated_devices(name: str, mla: int) -> None:
    plain, apart = frozenset[str](), APART["off"]
    for off, overrides in itertools.product((plain, apart), ("exps=CPU", "attn_kv=CPU", "blk.1.attn=CPU")):
        placement = PlacementOptions(overrides=(overrides,))
        placed: dict[str, Any] = {"devices": ("sim:2x3090",), "poison": True, "placement": placement}
        host, sim = (latent_logits(name, mla=mla, off=off, **o) for o in ({}, placed))
        np.testing.assert_array_equal(host, sim)


def latent_logits(name: str, **options: Any) -> Any:
    session = graphsched.load(model_path(name), n_ctx=256, **options)
    return np.concatenate([session.eval(tokens(150), all_logits=True), session.eval([7])])
