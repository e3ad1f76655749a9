"""Rows that stand for several positions each, and which of them an indexer chooses."""

from dataclasses import replace
from typing import Any

from graphsched.arch.blocks.linear import linear, norm
from graphsched.arch.blocks.moe import as_row
from graphsched.arch.cells import Cells
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import Rope, concat, lightning_indexer, pool_rows, rope, view
from graphsched.graph.tensor import Tensor


def rotated_last(turns: Rope, x: Tensor, inp: Inputs) -> Tensor:
    """The last dimensions of each head rotated. [T, n, d] -> [T, n, d]"""
    still, d = int(x.shape[2]) - turns.n_rot, int(x.shape[2])
    return concat(view(x, start=0, stop=still), rope(view(x, start=still, stop=d), inp.pos, rope=turns))


def compressed_rows(
    c: Any,
    blk: Weights,
    x: Tensor,
    inp: Inputs,
    name: str,
    turns: Rope,
    *,
    size: int,
    overlap: bool,
    held: Cells,
) -> Tensor:
    """The cache of rows that stand for `size` positions each, in the cells of the last ones: gated sums, normed and
    rotated by their first position.

    By the weights `name`_kv, _gate, _ape and _norm. overlap: of the positions in front, too. held: cells that keep as
    much as a sum needs.
    """
    width = int(blk[f"{name}_kv"].shape[0])
    rows, gates = (
        inp.cache_rows(blk, f"cache_{name}_{part}", as_row(linear(blk, f"{name}_{part}", x, width)), held)
        for part in ("kv", "gate")
    )
    ape = blk.sized(f"{name}_ape", size, width)
    pooled = pool_rows(rows, held.where, held.table, gates, ape, size=size, overlap=overlap)
    row = as_row(norm(c, pooled, blk, f"{name}_norm"))
    return inp.cache_rows(blk, f"cache_{name}", rotated_last(replace(turns, every=size), row, inp))


def chosen_units(
    q: Tensor, keys: Tensor, w: Tensor, inp: Inputs, *, top_k: int, size: int, tail: bool
) -> Tensor:
    """Bits of the positions of the best units of `size`, which have a key each. -> i32 [T, 1, words]

    tail: those behind the last complete unit are chosen, too.
    """
    cells = inp.all_cells
    return lightning_indexer(
        q,
        keys,
        cells.where,
        cells.table,
        w,
        n_positions=inp.n_kv,
        top_k=top_k,
        size=size,
        pooled=True,
        tail=tail,
    )
