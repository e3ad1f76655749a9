"""Inputs of a model's graph, and the caches in which it keeps keys, values and recurrent state."""

from collections import Counter
from functools import cached_property

from graphsched.arch.cells import Cells, Own, blocks_of, cells_input, own, window_cells
from graphsched.arch.weights import Weights
from graphsched.errors import OptionError
from graphsched.graph.ops import set_rows
from graphsched.graph.tensor import Extent, Pool, Tensor, TensorType, f32, i32, input_tensor
from graphsched.types.dtypes import DType
from graphsched.types.extents import CELL_BLOCK, N_KV, N_KV_SWA, N_OUTPUTS, N_TOKENS


class Inputs:
    """The graph's inputs: token ids, positions, and the cells of the KV cache.

    tokens i32[n_tokens], pos i32[n_tokens], out_ids i32[n_outputs] = rows whose logits are wanted. `all_cells` are
    those of layers that see everything: n_kv for all n_slots sequences together. `mla` and `amb` are how latent
    attention is computed (`SessionOptions`). n_ubatch: tokens of the largest run, for which a window's cells have room;
    swa_full: windows keep everything, too. n_checkpoints: copies of recurrent state for each slot. `asked` counts how
    often layers ask for mla, amb and swa_full.
    """

    def __init__(
        self,
        n_tokens: int,
        n_outputs: int,
        n_kv: int,
        kv_types: tuple[DType, DType],
        mla: int = 3,
        amb: int = 256,
        n_ubatch: int = 512,
        swa_full: bool = False,
        n_slots: int = 1,
        n_checkpoints: int = 0,
    ) -> None:
        t, o = Extent(n_tokens, N_TOKENS), Extent(n_outputs, N_OUTPUTS)
        self._mla, self.amb, self._kv_types = mla, amb, kv_types
        self.asked = Counter[str]()
        self._t, self._n_ubatch, self._swa_full, self._n_slots = t, n_ubatch, swa_full, n_slots
        self._n_rows = n_slots * (1 + n_checkpoints)
        self._recurrent = set[int | None]()  # layers with a state
        self._of_window: Cells | None = None
        self._own: dict[Tensor, Own] = {}
        self.tokens = input_tensor("inp_tokens", i32(t))
        self.pos = input_tensor("inp_pos", i32(t))
        self.n_kv = n_kv
        self.all_cells = self._cells(N_KV, blocks_of(n_kv))
        self.out_ids = input_tensor("inp_out_ids", i32(o))

    @property
    def mla(self) -> int:
        """How latent attention is computed, 0 to 3."""
        self.asked.update(("mla", "amb"))
        return self._mla

    def _cells(self, word: str, n_blocks: int, **mask: int) -> Cells:
        """A pool of blocks, and tables for sequences that may have all of them in common."""
        return cells_input(Pool(n_blocks * CELL_BLOCK, word), self._t, n_blocks * self._n_slots, **mask)

    @property
    def where(self) -> Tensor:
        """i32[n_tokens, 3]: (slot of its sequence, position, first entry of its table) of each token."""
        return self.all_cells.where

    @cached_property
    def beside(self) -> tuple[Tensor, Tensor]:
        """soft_max's `where` and `cells` by which a run's tokens see each other, before and behind: i32[T, 3], [T, 2].

        All tokens of a sequence are at one position.
        """
        where = input_tensor("inp_beside", i32(self._t, 3))
        return where, input_tensor("inp_beside_cells", i32(self._t, 2))

    def own(self, table: Tensor) -> Own:
        """What gathers the cells of a run's sequences by their table, where an op reads them as one matrix.

        Also by the table of what is gathered.
        """
        if table not in self._own:
            made = own(table, blocks_of(self.n_kv))
            self._own |= {table: made, made.table: made}
        return self._own[table]

    def cells_of(self, *, window: int = 0, chunk: int = 0) -> Cells:
        """The cells of layers with this mask: a pool of their own, if that is smaller than the context.

        There is one such pool; should layers differ in what they see, those that differ from the first keep everything.
        """
        spans = [n for n in (window, chunk) if n]
        self.asked["swa_full"] += bool(spans)
        if self._swa_full or not spans:
            return self.all_cells
        mask = {"window": window, "chunk": chunk}
        # One table of cells per kind: the first layer that slides decides what the pool is for.
        if self._of_window is None:
            n = window_cells(min(spans), self._n_ubatch, self.n_kv) * self._n_slots
            self._of_window = self._cells(N_KV_SWA, blocks_of(n), **mask) if n < self.n_kv else self.all_cells
        return self._of_window if self._of_window.where.attrs == mask else self.all_cells

    def cache(self, blk: Weights, k: Tensor, v: Tensor, cells: Cells | None = None) -> tuple[Tensor, Tensor]:
        """Stores this run's keys and values [tokens, heads, dim]; returns the layer's whole caches."""
        cells = cells or self.all_cells
        keys = self._store(blk, "cache_k", k, self._kv_types[0], cells)
        return keys, self._store(blk, "cache_v", v, self._kv_types[1], cells)

    def cache_k(self, blk: Weights, k: Tensor) -> Tensor:
        """Stores this run's keys only; returns the layer's whole cache of keys."""
        return self._store(blk, "cache_k", k, self._kv_types[0], self.all_cells)

    def cache_rows(self, blk: Weights, name: str, rows: Tensor, cells: Cells | None = None) -> Tensor:
        """Stores this run's rows [tokens, 1, dim] in the type of keys; returns the layer's whole cache `name`."""
        return self._store(blk, name, rows, self._kv_types[0], cells or self.all_cells)

    def state(self, blk: Weights, name: str, *shape: int) -> Tensor:
        """A layer's recurrent state, f32[n_slots, *shape]: a row per slot, changed in place by the op that reads it.

        Names are llama.cpp's: cache_r for rows of a convolution, cache_s for matrices.
        """
        if blk.layer not in self._recurrent:
            self._recurrent.add(blk.layer)
            self.asked.update(("n_checkpoints", "checkpoint_every"))
        return Tensor(f32(self._n_rows, *shape), kind="cache", name=f"blk.{blk.layer}.{name}")

    def _store(self, blk: Weights, name: str, rows: Tensor, dtype: DType, cells: Cells) -> Tensor:
        if rows.shape[-1] % dtype.block:
            sentence = f"rows that divide by {dtype.block}, blk.{blk.layer}.{name} has {rows.shape[-1]}"
            raise OptionError(f"KV cache type {dtype.name} needs {sentence}")
        type = TensorType(dtype, (cells.n, *rows.shape[1:]))
        cache = Tensor(type, kind="cache", name=f"blk.{blk.layer}.{name}")
        return set_rows(cache, rows, cells.ids, dtype=dtype)
