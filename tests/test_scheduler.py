"""Properties of schedules on random graphs, placements and policies; nothing is computed."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from graphsched.graph.graph import Graph, from_outputs
from graphsched.graph.opdef import Op
from graphsched.graph.ops import add, get_rows, mul_mat, multi_add, reshape, rms_norm, silu, view
from graphsched.graph.tensor import Extent, Tensor, f32, i32, input_tensor, weight
from graphsched.schedule.assign import Target, root
from graphsched.schedule.policy import OffloadPolicy, parse_off
from graphsched.schedule.scheduler import Schedule, schedule
from graphsched.types.devices import HOST

DEVICES = ("sim0", "sim1", HOST)
WIDTH = 32


@dataclass(frozen=True)
class Drawn:
    """A graph with the home of each weight."""

    graph: Graph
    homes: dict[str, str]


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    tokens = Extent(64, "n_tokens")
    nodes = [get_rows(weight("embd.weight", f32(100, WIDTH)), input_tensor("ids", i32(tokens)))]
    homes = {"embd.weight": HOST}
    for i in range(draw(st.integers(1, 25))):
        x = draw(st.sampled_from(nodes))
        nodes.append(draw_node(draw, i, x, nodes, homes))
    return Drawn(from_outputs(nodes[-1]), homes)


def draw_node(draw: st.DrawFn, i: int, x: Tensor, nodes: list[Tensor], homes: dict[str, str]) -> Tensor:
    kind = draw(st.sampled_from(["mul_mat", "mul_mat", "add", "silu", "norm", "views"]))
    if kind == "mul_mat":
        homes[f"blk.{i}.w.weight"] = draw(st.sampled_from(DEVICES))
        return mul_mat(weight(f"blk.{i}.w.weight", f32(WIDTH, WIDTH)), x)
    if kind == "add":
        return add(x, draw(st.sampled_from(nodes)))
    if kind == "silu":
        return silu(x)
    if kind == "norm":
        return rms_norm(x, eps=1e-5)
    halves = reshape(x, shape=(x.shape[0], 2, WIDTH // 2))
    return (
        reshape(view(halves, start=0, stop=WIDTH // 2), shape=x.shape) if i % 2 else multi_add_wide(halves, x)
    )


def multi_add_wide(halves: Tensor, x: Tensor) -> Tensor:
    """A weightless op behind a view, back to full width."""
    return add(x, mul_shape(multi_add(halves), x))


def mul_shape(half: Tensor, x: Tensor) -> Tensor:
    from graphsched.graph.ops import concat

    return concat(half, half)


def scheduled(drawn: Drawn, n_tokens: int, op_flags: tuple[str, ...], switches: frozenset[str]) -> Schedule:
    return schedule(
        drawn.graph,
        Target(
            devices=DEVICES,
            home=lambda leaf: drawn.homes[leaf.name],
            supports=lambda device, node: True,
            policy=OffloadPolicy(parse_off(op_flags)),
            lengths={"n_tokens": n_tokens},
            switches=switches,
        ),
    )


IMPROVE = st.sampled_from(
    [frozenset(), frozenset({"traffic"}), frozenset({"hoist"}), frozenset({"traffic", "hoist"})]
)
LENGTHS = st.sampled_from([1, 31, 32, 64])


@settings(max_examples=150, deadline=None)
@given(drawn(), LENGTHS, IMPROVE)
def test_each_node_is_in_one_split_and_sources_come_first(d: Drawn, n: int, switches: frozenset[str]) -> None:
    made = scheduled(d, n, (), switches)
    seen: set[Tensor] = set()
    arrived: set[Tensor] = set()
    for split in made.splits:
        for copy in split.inputs:
            source = made.placed.get(copy.source, copy.source)
            assert copy.source.kind != "node" or source in seen, "a copy of what is not computed yet"
            arrived.add(copy.tensor)
        for node in split.nodes:
            assert node not in seen
            for s in node.sources:
                assert s.kind not in ("node", "copy") or s in seen or s in arrived
            seen.add(node)
    work = [x for x in d.graph.nodes if not x.traits.view]
    assert all(made.placed[x] in seen for x in work)


@settings(max_examples=150, deadline=None)
@given(drawn(), LENGTHS, IMPROVE)
def test_a_copy_for_each_crossing_edge_and_for_no_other(d: Drawn, n: int, switches: frozenset[str]) -> None:
    made = scheduled(d, n, (), switches)
    device = made.assignment.device

    def where(leaf: Tensor) -> str:
        if leaf.kind == "node":
            return device[leaf]
        return HOST if leaf.kind == "input" else d.homes[leaf.name]

    work = [x for x in d.graph.nodes if not x.traits.view]
    crossing = {(root(s), device[x]) for x in work for s in x.sources if where(root(s)) != device[x]}
    returned = {(root(o), HOST) for o in d.graph.outputs if where(root(o)) != HOST}
    copies = [(c.source, c.to_device) for c in made.copies]
    assert len(copies) == len(set(copies)), "copied twice to one device"
    assert set(copies) == crossing | returned


@settings(max_examples=150, deadline=None)
@given(drawn(), LENGTHS, IMPROVE)
def test_nodes_read_their_own_device_only(d: Drawn, n: int, switches: frozenset[str]) -> None:
    made = scheduled(d, n, (), switches)
    home: dict[Tensor, str] = {c.tensor: c.to_device for s in made.splits for c in s.inputs}
    for split in made.splits:
        for node in split.nodes:
            home[node] = split.device
            for s in node.sources:
                here = home[s] if s in home else (HOST if s.kind == "input" else d.homes[s.name])
                assert here == split.device


@settings(max_examples=150, deadline=None)
@given(drawn(), LENGTHS)
def test_a_policy_moves_only_what_it_governs_and_what_hangs_on_it(d: Drawn, n: int) -> None:
    on, off = (scheduled(d, n, flags, frozenset()).assignment for flags in ((), ("MUL_MAT,0",)))
    for node in d.graph.nodes:
        if on.device[node] != off.device[node]:
            weights = [s for s in node.sources if s.kind == "weight"]
            governed = node.op is Op.MUL_MAT and d.homes[weights[0].name] == HOST and n >= 32
            assert governed or not weights


def dense(n_tokens: int) -> str:
    """Device of a product with a host weight."""
    x = input_tensor("x", f32(Extent(64, "n_tokens"), WIDTH))
    node = mul_mat(weight("w.weight", f32(WIDTH, WIDTH)), x)
    d = Drawn(from_outputs(node), {"w.weight": HOST})
    return scheduled(d, n_tokens, (), frozenset()).assignment.device[node]


def test_dense_threshold() -> None:
    assert [dense(n) for n in (31, 32, 33)] == [HOST, "sim0", "sim0"]


def causes(made: Schedule) -> dict[str, str]:
    return {made.graph.names[n]: c for n, c in made.assignment.cause.items()}


def test_causes_are_the_fields() -> None:
    x = get_rows(weight("embd.weight", f32(9, WIDTH)), input_tensor("ids", i32(Extent(4, "n_tokens"))))
    y = silu(mul_mat(weight("blk.0.a.weight", f32(WIDTH, WIDTH)), rms_norm(x, eps=1e-5)))
    z = mul_mat(weight("blk.0.b.weight", f32(WIDTH, WIDTH)), y)
    d = Drawn(from_outputs(z), {"embd.weight": HOST, "blk.0.a.weight": "sim0", "blk.0.b.weight": HOST})
    found: dict[str, Any] = causes(scheduled(d, 1, (), frozenset()))
    assert found == {
        "embd": "1.wgt0",
        "blk.0.a": "1.wgt0",
        "blk.0.b": "1.wgt0",
        "norm": "2.sup",
        "blk.0.a_unary": "2.sup",
    }
