"""How fast this machine's kernels multiply: products of weights and attention, with operands that are in no cache."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.graph import ops
from graphsched.graph.cost import Cost, cost_of
from graphsched.graph.graph import from_outputs
from graphsched.graph.tensor import Tensor, TensorType, f32, i32, input_tensor, weight
from graphsched.run.device import Setup
from graphsched.run.runtime import Runtime, open_runtime
from graphsched.synth.weights import check_encodable, chunks
from graphsched.types.dtypes import DType
from graphsched.types.extents import CELL_BLOCK

Bytes = NDArray[np.uint8]
ROWS: Final = (1, 2, 4, 8, 16, 32, 128, 512)  # of activations
MATRIX: Final = (2048, 4096)
QUERY_HEADS, HEADS, HEAD_DIM, CELLS = 16, 4, 128, 1024  # of attention
SECONDS: Final = 0.12  # of a measurement
_FEWEST: Final = 3  # runs
_SINGLE: Final = 8  # rows up to which operands come from memory
_DEFAULT_CACHE: Final = 32 << 20
_MOST_CACHE: Final = 1 << 29


@dataclass(frozen=True)
class Speed:
    """What a node costs, and the seconds that it takes: the median, and how much longer that is than the shortest."""

    cost: Cost
    seconds: float
    spread: float


def product_speed(dtype: DType, rows: int, n_threads: int) -> Speed:
    """Of one matrix of a type with so many rows."""
    type = TensorType(dtype, MATRIX)
    leaves = [weight(f"blk.{i}.ffn_up.weight", type) for i in range(_copies(type.nbytes, rows))]
    raw: Mapping[str, Bytes] = {leaf.name: made_up(leaf.name, type) for leaf in leaves}
    x = input_tensor("x", f32(rows, MATRIX[1]))
    return _speed([ops.mul_mat(leaf, x) for leaf in leaves], raw, n_threads, 1.0)


def attention_speed(dtype: DType, rows: int, n_threads: int) -> Speed:
    """Of attention with so many queries, the last of a sequence of CELLS positions, over a cache of a type."""
    cells = TensorType(dtype, (CELLS, HEADS, HEAD_DIM))
    where, table = input_tensor("where", i32(rows, 3)), input_tensor("table", i32(CELLS // CELL_BLOCK))
    nodes = []
    for i in range(_copies(2 * cells.nbytes, rows)):
        q = input_tensor(f"q.{i}", f32(rows, QUERY_HEADS, HEAD_DIM))
        k, v = (input_tensor(f"{name}.{i}", cells) for name in "kv")
        nodes.append(ops.flash_attn_ext(q, k, v, where, table, scale=HEAD_DIM**-0.5))
    seen = 1 - (rows - 1) / (2 * CELLS)  # of the cells, by the mean query
    return _speed(nodes, {}, n_threads, seen)


def near_speed(n_threads: int) -> Speed:
    """Of a sum of rows that the last step left in a cache."""
    x, y = (input_tensor(name, f32(128, MATRIX[1])) for name in "xy")
    return _speed(_chained(x, y, 16), {}, n_threads, 1.0)


def step_speed(n_threads: int) -> Speed:
    """Of a step that has next to nothing to compute: its start and the barrier behind it."""
    x, y = (input_tensor(name, f32(1, 64)) for name in "xy")
    return _speed(_chained(x, y, 400), {}, n_threads, 1.0)


def _chained(x: Tensor, y: Tensor, n: int) -> list[Tensor]:
    nodes = [ops.add(x, y)]
    while len(nodes) < n:
        nodes.append(ops.add(nodes[-1], y))
    return nodes


def _copies(nbytes: int, rows: int) -> int:
    """Operands of their own so that each comes from memory; with many rows the time goes into arithmetic anyway."""
    cache = min(last_level_cache(), _MOST_CACHE)  # for time's sake
    return max(1, -(-3 * cache // nbytes)) if rows <= _SINGLE else 2


def last_level_cache() -> int:
    """Bytes of the largest cache; 32 MiB where the system does not tell."""
    sizes = [_cache_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=0) or _DEFAULT_CACHE


def _cache_size(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    number, unit = text.rstrip("KMG"), text[-1:]
    return int(number) << {"K": 10, "M": 20, "G": 30}.get(unit, 0) if number.isdecimal() else 0


def made_up(name: str, type: TensorType) -> Bytes:
    """Bytes of a weight that decode to noise. OptionError for a type of which none can be made."""
    check_encodable(type.dtype)
    return np.concatenate([c.reshape(-1).view(np.uint8) for c in chunks(name, type, 1, False)])


def _speed(nodes: list[Tensor], raw: Mapping[str, Bytes], n_threads: int, seen: float) -> Speed:
    """Of one of the nodes, all of which cost the same. seen: the share of operations that are needed."""
    runtime = open_runtime("cpu", Setup(raw, n_threads=n_threads, trace=0))
    try:
        _fill(runtime, nodes)
        executable = runtime.compile(from_outputs(*nodes))
        seconds = sorted(_timed(lambda: executable.run({})))
    finally:
        runtime.close()
    cost, middle = cost_of(nodes[0], {}), median(seconds)
    needed = replace(cost, flops=cost.flops * seen, rows=cost.rows * seen)
    return Speed(needed, middle / len(nodes), middle / seconds[0])


def _timed(run: Any) -> Iterator[float]:
    """Seconds of runs, behind one that does not count."""
    run()
    until = perf_counter() + SECONDS
    for i in range(1000):
        begin = perf_counter()
        if begin > until and i >= _FEWEST:
            return
        run()
        yield perf_counter() - begin


def _fill(runtime: Runtime, nodes: list[Tensor]) -> None:
    rng = np.random.default_rng(0)
    for leaf in {s.name: s for node in nodes for s in node.sources if s.kind == "input"}.values():
        array = runtime.input(leaf)
        array[...] = _values(leaf, array, rng)


def _values(leaf: Tensor, array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Noise; of integers the cells of one sequence and its last positions."""
    if leaf.name == "table":
        return np.arange(len(array), dtype=np.int32)
    if leaf.name == "where":
        n = len(array)
        return np.stack([np.zeros(n), np.arange(CELLS - n, CELLS), np.zeros(n)], axis=1).astype(np.int32)
    if array.dtype == np.uint8:
        row = leaf.dtype.quantize(rng.standard_normal((1, leaf.shape[-1])).astype(np.float32))
        return np.resize(row.reshape(-1), array.shape)
    return rng.standard_normal(array.shape).astype(array.dtype)
