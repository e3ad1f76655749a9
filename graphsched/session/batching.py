"""How a session reads prompts: the one reading of -c, -b, -ub and the length of a prompt for all commands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from graphsched.arch.cells import blocks_of
from graphsched.errors import OptionError
from graphsched.session.options import SessionOptions
from graphsched.session.rows import Tokens
from graphsched.types.extents import CELL_BLOCK


@dataclass(frozen=True)
class Batching:
    """Cells of the context, tokens handed over at once, tokens computed at once, and sequences that share the cells.

    Tokens computed at once are never more than the others: what was asked for in vain is in `notes`.
    """

    n_ctx: int
    n_batch: int
    n_ubatch: int
    notes: tuple[str, ...] = ()
    n_parallel: int = 1

    @property
    def n_each(self) -> int:
        """Tokens that each sequence has, if all are as long as they can be."""
        return min(self.n_ctx, blocks_of(self.n_ctx) // self.n_parallel * CELL_BLOCK)

    def pieces(self, n: int) -> Iterator[tuple[int, int]]:
        """The micro-batches of n tokens: the first token of each, and how many it has."""
        for batch in range(0, n, self.n_batch):
            end = min(batch + self.n_batch, n)
            for first in range(batch, end, self.n_ubatch):
                yield first, min(self.n_ubatch, end - first)

    def check_room(self, n_prompt: int, n_gen: int) -> None:
        """OptionError if a prompt and what is generated behind it do not fit the context."""
        if not self.n_each:
            what = f"the context of {self.n_ctx} tokens has no block of cells for each of {self.n_parallel} sequences"
            raise OptionError(f"{what}; a larger one is -c N")
        if max(n_prompt, 1) + n_gen > self.n_each:
            what = f"-p {n_prompt} and -n {n_gen} do" if n_gen else f"-p {n_prompt} does"
            times = f" {self.n_parallel} times" if self.n_parallel > 1 else ""
            raise OptionError(
                f"{what} not fit the context of {self.n_ctx} tokens{times}; a larger one is -c N"
            )


def batching(options: SessionOptions, n_ctx: int, n_ctx_train: int = 0) -> Batching:
    """What options ask for in a context of n_ctx tokens; n_ctx_train: tokens of the model's training, 0 if unknown."""
    n_ubatch = min(options.n_ubatch, options.n_batch, n_ctx)
    made = Batching(n_ctx, options.n_batch, n_ubatch, n_parallel=options.n_parallel)
    notes = _batch_note(options), _context_note(made.n_each, n_ctx_train)
    return replace(made, notes=tuple(note for note in notes if note))


def _batch_note(options: SessionOptions) -> str | None:
    """A sentence if the batch is no multiple of the micro-batch, which costs speed."""
    batch, ubatch = options.n_batch, options.n_ubatch
    if batch % ubatch == 0:
        return None
    if batch < ubatch:
        return f"-b {batch} is smaller than -ub {ubatch}, so {batch} tokens are computed at once"
    return f"-b {batch} is no multiple of -ub {ubatch}, each full batch ends with {batch % ubatch} tokens"


def _context_note(n_ctx: int, n_ctx_train: int) -> str | None:
    """A sentence if a sequence may be longer than those of the training."""
    if not 0 < n_ctx_train < n_ctx:
        return None
    return f"the model was trained on {n_ctx_train} tokens, the context has {n_ctx}"


class Piece(NamedTuple):
    """Tokens of part `number` that one forward reads; logits are wanted of the last n_wanted."""

    number: int
    ids: Tokens
    n_wanted: int


class _Read(Protocol):
    @property
    def n_past(self) -> int: ...


def batches(
    parts: Sequence[tuple[_Read, Tokens, int]], n_ubatch: int, every: int = 0
) -> Iterator[list[Piece]]:
    """The forwards that read parts (sequence, tokens, logits wanted), each with at most n_ubatch tokens.

    No piece goes beyond a position that is a multiple of `every`, unless that is 0: it reads from what its sequence has
    read when it is asked for.
    """
    left = [Piece(i, ids, n_wanted) for i, (_, ids, n_wanted) in enumerate(parts)]
    while left:
        room, batch, rest = n_ubatch, list[Piece](), list[Piece]()
        for number, ids, n_wanted in left:
            n = min(len(ids), room)
            if every:
                n = min(n, every - parts[number][0].n_past % every)
            behind = len(ids) - n
            if n:
                batch.append(Piece(number, ids[:n], max(n_wanted - behind, 0)))
            if behind:
                rest.append(Piece(number, ids[n:], min(n_wanted, behind)))
            room -= n
        yield batch
        left = rest
