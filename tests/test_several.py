"""Ops of several results: what is fused, what is not, and that neither placement nor bits depend on it."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from plans import PRESETS, SECTIONS, cases, opened
from running import logits_in_pieces, reference

from graphsched.graph.graph import from_outputs
from graphsched.graph.opdef import Op
from graphsched.graph.ops import (
    Rope,
    add,
    fused_rms_norm,
    fused_rope,
    get_rows,
    mul_mat,
    rms_norm,
    rope,
    scale,
    soft_max,
    sqr,
    top_k,
)
from graphsched.graph.ops.several import made_of, results
from graphsched.graph.rewrites.rules import RULES
from graphsched.graph.tensor import Extent, Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.predict.plan import make_plan
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.schedule.assign import Target
from graphsched.schedule.placement import PlacementOptions
from graphsched.schedule.policy import MinBatch
from graphsched.schedule.scheduler import Schedule, schedule
from graphsched.session.options import SessionOptions
from graphsched.session.switches import SWITCHES
from graphsched.types import dtypes
from graphsched.types.devices import HOST

ALL = frozenset(rule.switch for rule in RULES if rule.needs == "devices")
T = Extent(8, "n_tokens")
ON_SIM: dict[str, Any] = {
    "devices": ("sim:rtx4090",),
    "placement": PlacementOptions(overrides=("attn=CPU",)),
    "offload_min_batch": 1,
    "poison": True,
}


def dumped(name: str, n_tokens: int, **options: Any) -> list[str]:
    made = SessionOptions(n_ctx=1024, **options)
    return make_plan(opened(name), made, n_tokens, 1, n_tokens).schedule.dump().splitlines()


def without_nodes(lines: list[str]) -> list[list[str]]:
    """Splits with their inputs, whose order in a split is that of the nodes."""
    splits: list[list[str]] = []
    for line in lines:
        if line.startswith(("split", "results")):
            splits.append([line])
        elif line.startswith("  <-"):
            splits[-1].append(line)
    return [[head, *sorted(inputs)] for head, *inputs in splits]


SOME = ("mixtral", "gemma2", "qwen3moe", "deepseek2-v3")  # the others are slow tests


@pytest.mark.parametrize(
    ("name", "preset"),
    [pytest.param(*c, marks=() if c[0] in SOME else pytest.mark.slow) for c in cases()],
)
def test_splits_and_copies_are_those_without(name: str, preset: str) -> None:
    """Every split's device, and what is copied before it, by name; the causes of what is there in both."""
    for n_tokens in (1, 512):
        for section in SECTIONS.values():
            for hoist in (frozenset(), frozenset({"hoist"})):
                options = {**PRESETS[preset], **section}
                fused = dumped(name, n_tokens, off=hoist, **options)
                plain = dumped(name, n_tokens, off=hoist | ALL, **options)
                assert without_nodes(fused) == without_nodes(plain)
                assert causes(fused).items() >= {
                    (node, cause) for node, cause in causes(plain).items() if node in causes(fused)
                }


def causes(lines: list[str]) -> dict[str, str]:
    """The cause of each node, by name."""
    return {line.split()[1]: line.split()[2] for line in lines if line.startswith("     ")}


def fused_ops(name: str, n_tokens: int, **options: Any) -> Counter[str]:
    plan = make_plan(opened(name), SessionOptions(n_ctx=1024, **options), n_tokens, 1, n_tokens)
    nodes = plan.schedule.graph.nodes
    return Counter(n.opdef.op.name for n in nodes if n.opdef and n.opdef.compose)


def test_what_models_join() -> None:
    layers = {name: opened(name).config.n_layer for name in ("llama", "mixtral", "deepseek2-lite")}
    n = layers["llama"]
    one = {"MUL_MAT_QKV": n, "FUSED_ROPE": n, "FUSED_ADD_RMS_NORM": 2 * n}
    assert fused_ops("llama", 1) == one
    assert fused_ops("llama", 8) == {k: v for k, v in one.items() if k != "MUL_MAT_QKV"}
    assert fused_ops("mixtral", 1)["TOPK_MOE"] == layers["mixtral"]
    for name, dense in (("qwen3moe", 0), ("qwen2moe", 0), ("gpt-oss", 0), ("deepseek2-v3", 1)):
        assert fused_ops(name, 1)["TOPK_MOE"] == opened(name).config.n_layer - dense, name
    assert fused_ops("llama4", 1)["TOPK_MOE"]
    assert fused_ops("glm4moe", 1)["TOPK_MOE"]
    latent = fused_ops("deepseek2-lite", 1)
    assert latent["TOPK_MOE"] == layers["deepseek2-lite"] - 1  # the first layer is dense
    assert latent["MUL_MAT_QKV"] == latent["FUSED_ROPE"] == layers["deepseek2-lite"]


ON_GPUS = {  # which the host has no kernels for
    "fused-up-gate": "MUL_MAT_UP_GATE",
    "fused-mul-multi-add": "MUL_MULTI_ADD",
    "fused-set-rows": "FUSED_SET_ROWS",
}


@pytest.mark.parametrize("off", sorted(ALL))
@pytest.mark.parametrize("devices", [(), ("sim:rtx4090",)], ids=["host", "gpu"])
def test_each_has_a_switch(off: str, devices: tuple[str, ...]) -> None:
    ops = {"merge-qkv": "MUL_MAT_QKV", "fused-rope": "FUSED_ROPE"}
    ops |= {"fused-add-rms-norm": "FUSED_ADD_RMS_NORM", "fused-topk-moe": "TOPK_MOE"} | ON_GPUS
    assert set(ops) == ALL <= set(SWITCHES)
    every = fused_ops("qwen2moe", 1, devices=devices)
    assert set(every) == {op for switch, op in ops.items() if devices or switch not in ON_GPUS}
    left = fused_ops("qwen2moe", 1, devices=devices, off=frozenset({off}))
    assert left == {k: n for k, n in every.items() if k != ops[off]}
    assert not fused_ops("qwen2moe", 1, devices=devices, off=ALL)


def test_parts_keep_names_labels_and_causes() -> None:
    graphs = [
        make_plan(opened("mixtral"), SessionOptions(n_ctx=64, off=off), 1, 1, 1).schedule.graph
        for off in (frozenset(), ALL)
    ]
    names = [{g.names[n]: g.labels[n] for n in g.nodes} for g in graphs]
    inside = {"ffn_moe_probs", "ffn_moe_weights", "ffn_moe_weights_sum", "ffn_moe_weights_sum_clamped"}
    for name, label in names[1].items():
        assert names[0].get(name) == (None if label in inside else label)
    assert names[0]["blk.1.attn_q+attn_k+attn_v"] == "Qcur+Kcur+Vcur"
    assert names[0]["blk.1.l_out+attn_norm"] == "l_out+attn_norm"


# One model for each way to choose experts: softmax of all, of the chosen, sigmoid of both, groups with a bias.
CHOOSE = ("mixtral", "gpt-oss", "llama4", "deepseek2-v3", "glm4moe")
SWITCHED = [(name, "fused-topk-moe") for name in CHOOSE] + [
    ("llama", o) for o in sorted(ALL - {"fused-topk-moe"})
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("name", "off"), SWITCHED)
def test_bits_are_those_without(name: str, off: str, backend: str) -> None:
    """A prompt in two pieces, then token by token; on the CPU with one thread and with three."""
    ref, tokens = reference(name), 24 if backend == "reference" else 32
    apart = logits_in_pieces(ref.model, ref.tokens[:tokens], 7, off=frozenset({off}), backend=backend)
    for n in (1, 3) if backend == "cpu" else (1,):
        fused = logits_in_pieces(ref.model, ref.tokens[:tokens], 7, backend=backend, n_threads=n)
        np.testing.assert_array_equal(fused, apart)


@pytest.mark.parametrize("name", ["llama-Q4_0", "llama-Q4_K_M", "deepseek2-short"])
def test_bits_of_a_split_are_those_without(name: str) -> None:
    """Attention on the host, the rest on a simulated device; blocks, of two types in one layer, and latents."""
    ref = reference(name)

    def run(**options: Any) -> NDArray[np.float32]:
        return logits_in_pieces(ref.model, ref.tokens, 7, **options)

    apart = run(off=ALL)
    for options in ({"n_threads": 2}, ON_SIM, {"rtr": "on", "n_threads": 2}):
        against = apart if "rtr" not in options else run(off=ALL, **options)
        np.testing.assert_array_equal(run(**options), against)


def test_a_part_is_what_its_node_is() -> None:
    logits = input_tensor("x", f32(T, 8))
    made = results(add_norm(logits, logits))
    assert [n.type for n in made] == [f32(T, 8), f32(T, 8)]
    assert [n.type for n in made_of(made[0].sources[0])] == [n.type for n in made]


def add_norm(a: Tensor, b: Tensor) -> Tensor:
    from graphsched.graph.ops import fused_add_rms_norm

    return fused_add_rms_norm(a, b, weight("blk.0.ffn_norm.weight", f32(8)), eps=1e-5)


# ---- what is not fused


def scheduled(*outputs: Tensor, home: dict[str, str] | None = None) -> Schedule:
    """On the host and a device that fuses as the host does."""
    homes = home or {}
    target = Target(
        devices=("dev", HOST),
        home=lambda leaf: homes.get(leaf.name, HOST),
        supports=lambda device, node: True,
        policy=MinBatch(1 << 20),
        lengths={"n_tokens": 1},
        switches=frozenset({"traffic", "hoist"}) | ALL,
    )
    return schedule(from_outputs(*outputs), target)


def ops_of(made: Schedule) -> Counter[str]:
    return Counter(n.opdef.op.name for n in made.graph.nodes if n.opdef)


ONE = Extent(1, "n_tokens")
X = rms_norm(input_tensor("x", f32(ONE, 64)), eps=1e-5)


def projection(name: str, rows: int, type: dtypes.DType = dtypes.Q8_0, x: Tensor = X) -> Tensor:
    return mul_mat(weight(f"blk.0.{name}.weight", TensorType(type, (rows, 64))), x)


def summed(*parts: Tensor) -> Tensor:
    """Something that reads all of them."""
    out = rms_norm(parts[0], eps=1e-5)
    for part in parts[1:]:
        out = add(out, part)
    return out


def test_matrices_of_another_type_stay_apart() -> None:
    """Q4_K_M has values of its own type: queries and keys are fused."""
    q, k, v = (projection(n, 32, t) for n, t in zip("qkv", (dtypes.Q8_0,) * 3, strict=True))
    assert not {"MUL_MAT_QKV"} & set(ops_of(scheduled(summed(q, k, v))))  # not an attention's
    names = ("attn_q", "attn_k", "attn_v")
    three = [projection(n, 32) for n in names]
    assert ops_of(scheduled(summed(*three)))["MUL_MAT_QKV"] == 1
    two = [*three[:2], projection("attn_v", 32, dtypes.Q4_0)]
    made = scheduled(summed(*two))
    (fused,) = (n for n in made.graph.nodes if n.opdef and n.opdef.op is Op.MUL_MAT_QKV)
    assert made.graph.names[fused] == "blk.0.attn_q+attn_k"
    assert ops_of(made)["MUL_MAT"] == 1


def test_matrices_that_live_apart_stay_apart() -> None:
    three = [projection(n, 32) for n in ("attn_q", "attn_k", "attn_v")]
    made = scheduled(summed(*three), home={"blk.0.attn_k.weight": "dev"})
    assert "MUL_MAT_QKV" not in ops_of(made)


def test_outputs_and_several_tokens_stay_apart() -> None:
    three = [projection(n, 32) for n in ("attn_q", "attn_k", "attn_v")]
    assert "MUL_MAT_QKV" not in ops_of(scheduled(*three))
    x = rms_norm(input_tensor("x", f32(T, 64)), eps=1e-5)
    many = [projection(n, 32, x=x) for n in ("attn_q", "attn_k", "attn_v")]
    assert "MUL_MAT_QKV" not in ops_of(scheduled(summed(*many)))


def test_a_rotation_that_needs_the_other_stays_apart() -> None:
    pos, rotation = input_tensor("pos", i32(T)), Rope(8)
    q = rope(input_tensor("q", f32(T, 2, 8)), pos, rope=rotation)
    k = rope(q, pos, rope=rotation)
    assert ops_of(scheduled(rms_norm(k, eps=1e-5)))["ROPE"] == 2
    other = rope(input_tensor("k", f32(T, 2, 8)), pos, rope=Rope(8, base=5e5))
    assert ops_of(scheduled(add(q, other)))["ROPE"] == 2
    alike = rope(input_tensor("k", f32(T, 2, 8)), pos, rope=rotation)
    assert ops_of(scheduled(add(q, alike)))["FUSED_ROPE"] == 1


def test_rotated_queries_do_not_take_the_place_of_keys() -> None:
    """Queries that are read later keep their memory, and keys of their size end here."""
    inputs, pos = [input_tensor(n, f32(4, 2, 8)) for n in "qk"], input_tensor("pos", i32(4))
    q, k = (scale(x, by=2.0) for x in inputs)
    apart = from_outputs(*(sqr(rope(x, pos, rope=Rope(8))) for x in (q, k)), sqr(q))
    fused = from_outputs(*map(sqr, results(fused_rope(q, k, pos, rope=Rope(8)))), sqr(q))
    found = []
    for graph in (apart, fused):
        runtime = open_runtime("cpu", Setup({}))
        for seed, x in enumerate(inputs):
            runtime.input(x)[...] = np.random.default_rng(seed).standard_normal((4, 2, 8))
        runtime.input(pos)[...] = (3, 5, 7, 9)
        executable = runtime.compile(graph)
        executable.run({})
        found.append([o.copy() for o in executable.outputs])
        runtime.close()
    for one_by_one, both in zip(*found, strict=True):
        np.testing.assert_array_equal(one_by_one, both)


def test_a_sum_goes_with_one_norm() -> None:
    """Of two norms of a sum, the second reads the part."""
    a, b = input_tensor("a", f32(T, 8)), input_tensor("b", f32(T, 8))
    total, w = add(a, b), [weight(f"blk.0.{n}.weight", f32(8)) for n in ("ffn_norm", "attn_norm")]
    made = scheduled(add(fused_rms_norm(total, w[0], eps=1e-5), fused_rms_norm(total, w[1], eps=1e-5)))
    assert ops_of(made) == {"FUSED_ADD_RMS_NORM": 1, "PART": 2, "FUSED_RMS_NORM": 1, "ADD": 1}
    bias = fused_rms_norm(add(a, weight("blk.0.b.bias", f32(8))), w[0], eps=1e-5)
    assert "FUSED_ADD_RMS_NORM" not in ops_of(scheduled(add(bias, a)))


def test_a_choice_with_other_readers_stays_apart() -> None:
    probs = soft_max(input_tensor("x", f32(T, 8)))
    ids = top_k(probs, k=2)
    weights = get_rows(probs, ids)
    assert "TOPK_MOE" in ops_of(scheduled(rms_norm(weights, eps=1e-5)))
    seen = scheduled(rms_norm(weights, eps=1e-5), rms_norm(probs, eps=1e-5))
    assert "TOPK_MOE" not in ops_of(seen)
