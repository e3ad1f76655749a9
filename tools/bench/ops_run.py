"""One op ready to run on the CPU: a program of many nodes of it, so that operands that come from memory do so here."""

import time
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, count, islice
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from ops_cases import Shape

from graphsched.errors import Error
from graphsched.graph.cost import kind_of
from graphsched.graph.graph import from_outputs
from graphsched.graph.opdef import OPS, Op, flops, lowering_for, nbytes
from graphsched.graph.ops.several import results
from graphsched.graph.tensor import Tensor, TensorType, input_tensor, weight
from graphsched.measure import products
from graphsched.measure.products import last_level_cache
from graphsched.run.device import Setup
from graphsched.run.executable import Executable
from graphsched.run.runtime import Runtime, open_runtime
from graphsched.types import dtypes

Bytes = NDArray[np.uint8]
PRODUCTS: Final = frozenset({Op.MUL_MAT, Op.MUL_MAT_ID, Op.MOE_FUSED_UP_GATE, Op.MUL_MAT_QKV})
RECURRENT: Final = frozenset({Op.SSM_CONV, Op.GATED_DELTA_NET, Op.SSM_SCAN})
# In a model their operands are in no cache.
FROM_MEMORY: Final = PRODUCTS | RECURRENT | {Op.FLASH_ATTN_EXT, Op.GET_ROWS}
MOST_NODES: Final = 2048
SMALL: Final = (
    64  # nodes of an op whose operands are in the cache: calling a program costs more than one takes
)
OPS_AT_ONCE: Final = 1e11
MIN_SECONDS: Final = 0.01  # of one measurement


@dataclass(frozen=True)
class Work:
    """Nodes of one shape with operands of their own, and what one of them costs."""

    shape: Shape
    nodes: tuple[Tensor, ...]
    weights: dict[str, Bytes] = field(repr=False)
    flops: float
    nbytes: float
    kind: str

    @property
    def memory(self) -> int:
        """Bytes that it takes while it is measured on one number of threads."""
        leaves = {s.name: s for node in self.nodes for s in node.sources}
        own = sum(leaf.type.nbytes for leaf in leaves.values() if leaf.kind != "weight")
        return sum(w.nbytes for w in self.weights.values()) + own + sum(n.type.nbytes for n in self.nodes)


def has_kernel(shape: Shape) -> bool:
    return lowering_for("cpu", _node(shape, 0, 1)) is not None


def nodes_of(shape: Shape) -> int:
    """Enough that weights and caches were thrown out of the last-level cache when their turn comes again."""
    node = _node(shape, 0, 1)
    if shape.op not in FROM_MEMORY:
        return SMALL if nbytes(node) < 1 << 20 else 4
    wanted = ceil(4 * last_level_cache() / max(nbytes(node), 1))
    most = int(OPS_AT_ONCE / max(flops(node), 1)) if shape.tokens > 8 else MOST_NODES
    return max(1, min(wanted, most, MOST_NODES if shape.tokens <= 8 else 8))


def prepare(shape: Shape) -> Work:
    """Nodes and made-up weights. Experts share matrices where these are larger than the cache: their ids differ."""
    n, copies = nodes_of(shape), _copies(shape)
    nodes = tuple(_node(shape, i, copies) for i in range(n))
    leaves = {s.name: s for node in nodes for s in node.sources if s.kind == "weight"}
    raw = {name: made_up(leaf.type).copy() for name, leaf in leaves.items()}
    first = nodes[0]
    return Work(shape, nodes, raw, flops(first), nbytes(first), kind_of(first))


def _copies(shape: Shape) -> int:
    """How many sets of matrices the nodes take in turn."""
    if shape.op is Op.MUL_MAT:
        return MOST_NODES
    operands = zip(OPS[shape.op].operands, shape.case.types, strict=False)
    each = sum(type.nbytes for name, type in operands if _is_weight(shape, name))
    return ceil(4 * last_level_cache() / each) if each else 1


def _is_weight(shape: Shape, name: str) -> bool:
    return shape.op in PRODUCTS and name in ("w", "up", "gate", "q", "k", "v")


def _node(shape: Shape, i: int, copies: int) -> Tensor:
    definition = OPS[shape.op]
    leaves = [
        _leaf(shape, name, type, i, copies)
        for name, type in zip(definition.operands, shape.case.types, strict=False)
    ]
    node: Tensor = definition(*leaves, **shape.case.attrs)
    return node


def _leaf(shape: Shape, name: str, type: TensorType, i: int, copies: int) -> Tensor:
    if _is_weight(shape, name):
        return weight(f"blk.{i % copies}.{name}.weight", type)
    if name == OPS[shape.op].traits.updates:
        return Tensor(type, "cache", f"{name}.{i}")
    is_table = shape.op is Op.GET_ROWS and name == "x"
    return input_tensor(f"{name}.{0 if is_table else i}", type)


@lru_cache(2)
def made_up(type: TensorType) -> Bytes:
    """Bytes that decode to noise; any bytes where nothing here makes such."""
    try:
        return products.made_up("blk.0.ffn_up.weight", type)
    except Error:
        return np.random.default_rng(0).integers(0, 256, type.nbytes, np.uint8)


@dataclass
class Running:
    """Work compiled for a number of threads."""

    work: Work
    threads: int
    runtime: Runtime = field(init=False)
    executable: Executable = field(init=False)
    repeats: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        self.runtime = runtime = open_runtime("cpu", Setup(self.work.weights, n_threads=self.threads))
        rng = np.random.default_rng(1)
        leaves = {s.name: s for node in self.work.nodes for s in node.sources if s.kind == "input"}
        for leaf in leaves.values():
            raw = runtime.input(leaf).reshape(-1).view(np.uint8)
            raw[:] = operand(self.work.shape, leaf, rng).reshape(-1).view(np.uint8)
        self.executable = runtime.compile(from_outputs(*chain.from_iterable(map(results, self.work.nodes))))
        self.microseconds()
        self.repeats = max(1, ceil(MIN_SECONDS / (self.microseconds() * len(self.work.nodes) * 1e-6)))

    def microseconds(self) -> float:
        """Of one node: barriers, dispatch and the rounding of its activations included."""
        run = self.executable.run
        began = time.perf_counter()
        for _ in range(self.repeats):
            run({})
        return (time.perf_counter() - began) * 1e6 / self.repeats / len(self.work.nodes)


def operand(shape: Shape, leaf: Tensor, rng: np.random.Generator) -> NDArray[Any]:
    """Noise, or the integers that an op expects: positions at the cache's end, experts in turn, rows of anywhere."""
    name, number = leaf.name.split(".")
    n, type = int(leaf.shape[0]), leaf.type
    if shape.op in RECURRENT or shape.op is Op.COPY_ROWS:
        return _drawn(shape, name, type, rng)
    if type.dtype != dtypes.I32:
        return made_up(type) if type.dtype.numpy is None else _noise(type, rng)
    if name == "cells":
        return np.stack([np.zeros(n), np.arange(n)], axis=1).astype(np.int32)
    if name == "where":
        cells = int(
            next(t for t in shape.case.types[1:] if len(t.shape) == 3 or t.shape[1:] == (2,)).shape[0]
        )
        return np.stack([np.zeros(n), np.arange(cells - n, cells), np.zeros(n)], axis=1).astype(np.int32)
    if name == "table":
        return np.arange(n, dtype=np.int32)
    low, high = next(iter(shape.case.ints.values()))
    if name == "ids":
        return rng.permutation(high)[:n].astype(np.int32)
    if len(leaf.shape) == 2:
        return _experts(n, int(leaf.shape[1]), high, int(number))
    return rng.integers(low, high, leaf.shape).astype(np.int32)


def _drawn(shape: Shape, name: str, type: TensorType, rng: np.random.Generator) -> NDArray[Any]:
    """What the op's test cases have: state grows without bound where keys are any noise."""
    definition = OPS[shape.op]
    role = definition.roles.get(name)
    types = dict(zip(definition.operands, shape.case.types, strict=False))
    return role(types, rng) if callable(role) else _noise(type, rng)


def _noise(type: TensorType, rng: np.random.Generator) -> NDArray[Any]:
    """Floats, of which a megabyte is drawn and repeated."""
    drawn = rng.standard_normal(min(type.numel, 1 << 18), np.float32).astype(type.dtype.numpy)
    return np.resize(drawn, type.numel)


def _experts(tokens: int, used: int, n: int, turn: int) -> NDArray[np.int32]:
    """Different experts for each token; nodes one behind the other take the next ones."""
    order = np.random.default_rng(0).permutation(n)
    ids = islice(count(turn * used), tokens * used)
    return np.array([order[i % n] for i in ids], np.int32).reshape(tokens, used)
