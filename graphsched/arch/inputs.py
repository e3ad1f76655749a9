"""Inputs of a model's graph, and the caches in which it keeps keys, values and recurrent state."""

from collections import Counter

from graphsched.arch.cells import Cells, cells_input, ring_cells
from graphsched.arch.weights import Weights
from graphsched.errors import OptionError
from graphsched.graph.ops import set_rows
from graphsched.graph.tensor import Extent, Tensor, TensorType, f32, i32, input_tensor
from graphsched.types.dtypes import DType
from graphsched.types.extents import N_KV, N_KV_SWA, N_OUTPUTS, N_TOKENS


class Inputs:
    """The graph's inputs: token ids, positions, and the cells of the KV cache.

    tokens i32[n_tokens], pos i32[n_tokens], where i32[n_tokens, 2] = (sequence, position) of each token,
    out_ids i32[n_outputs] = rows whose logits are wanted. `all_cells` are those of layers that see everything, `cells`
    their table. `mla` and `amb` are how latent attention is computed (`SessionOptions`). n_ubatch: tokens of the
    largest run, for which a ring of cells has room; swa_full: there are no rings. n_slots: rows of recurrent state.
    `asked` counts how often layers ask for mla, amb and swa_full.
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
    ) -> None:
        t, o = Extent(n_tokens, N_TOKENS), Extent(n_outputs, N_OUTPUTS)
        self._mla, self.amb, self._kv_types = mla, amb, kv_types
        self.asked = Counter[str]()
        self._t, self._n_ubatch, self._swa_full = t, n_ubatch, swa_full
        self._ring: Cells | None = None
        self._n_slots = n_slots
        self.tokens = input_tensor("inp_tokens", i32(t))
        self.pos = input_tensor("inp_pos", i32(t))
        self.where = input_tensor("inp_where", i32(t, 2))
        self.all_cells = cells_input(Extent(n_kv, N_KV), t)
        self.out_ids = input_tensor("inp_out_ids", i32(o))

    @property
    def mla(self) -> int:
        """How latent attention is computed, 0 to 3."""
        self.asked.update(("mla", "amb"))
        return self._mla

    @property
    def n_kv(self) -> Extent:
        """Cells of layers that see the whole context; the extent `n_kv`."""
        return self.all_cells.n

    @property
    def cells(self) -> Tensor:
        """i32[n_kv, 2]: sequence and position of each of these cells, -1 if free."""
        return self.all_cells.cells

    def cells_of(self, *, window: int = 0, chunk: int = 0) -> Cells:
        """The cells of layers with this mask: a ring, if that is smaller than the context.

        There is one ring; should layers differ in what they see, those that differ from the first keep everything.
        """
        spans = [n for n in (window, chunk) if n]
        self.asked["swa_full"] += bool(spans)
        if self._swa_full or not spans:
            return self.all_cells
        mask = {"window": window, "chunk": chunk}
        # One table of cells per kind: the first layer that slides decides what the ring is for.
        if self._ring is None:
            n = ring_cells(min(spans), self._n_ubatch, self.n_kv)
            ring = cells_input(Extent(n, N_KV_SWA), self._t, **mask)
            self._ring = ring if n < self.n_kv else self.all_cells
        return self._ring if self._ring.cells.attrs == mask else self.all_cells

    def cache(self, blk: Weights, k: Tensor, v: Tensor, cells: Cells | None = None) -> tuple[Tensor, Tensor]:
        """Stores this run's keys and values [tokens, heads, dim]; returns the layer's whole caches."""
        cells = cells or self.all_cells
        keys = self._store(blk, "cache_k", k, self._kv_types[0], cells)
        return keys, self._store(blk, "cache_v", v, self._kv_types[1], cells)

    def cache_k(self, blk: Weights, k: Tensor) -> Tensor:
        """Stores this run's keys only; returns the layer's whole cache of keys."""
        return self._store(blk, "cache_k", k, self._kv_types[0], self.all_cells)

    def state(self, blk: Weights, name: str, *shape: int) -> Tensor:
        """A layer's recurrent state, f32[n_slots, *shape]: a row per slot, changed in place by the op that reads it.

        Names are llama.cpp's: cache_r for rows of a convolution, cache_s for matrices.
        """
        return Tensor(f32(self._n_slots, *shape), kind="cache", name=f"blk.{blk.layer}.{name}")

    def _store(self, blk: Weights, name: str, rows: Tensor, dtype: DType, cells: Cells) -> Tensor:
        if rows.shape[-1] % dtype.block:
            sentence = f"rows that divide by {dtype.block}, blk.{blk.layer}.{name} has {rows.shape[-1]}"
            raise OptionError(f"KV cache type {dtype.name} needs {sentence}")
        type = TensorType(dtype, (cells.n, *rows.shape[1:]))
        cache = Tensor(type, kind="cache", name=f"blk.{blk.layer}.{name}")
        return set_rows(cache, rows, cells.slots, dtype=dtype)
