"""The options of serving that are about slots, memory and the queue. Imports nothing slow, `--help` reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from graphsched.option import Options, Parsed, Words, option

_MIB: Final = 1 << 20
POOLINGS: Final = ("none", "mean", "cls", "last")


def _path(given: Any) -> Path | None:
    return Path(given) if given not in (None, "") else None


@dataclass(frozen=True)
class ServiceOptions(Options):
    """How many requests wait, what of earlier ones is kept, where slots are saved. OptionError outside the ranges."""

    cache_ram: int = option(
        "-cram --cache-ram",
        8192,
        low=-1,
        needed="an integer from 0 (off) up, or -1 for no limit",
        help="MiB of memory for sequences that no slot has any more, -1 for no limit",
    )
    n_queue: int = option("--queue", 256, low=1, high=1 << 20, help="requests that wait for a slot at most")
    slot_prompt_similarity: float = option(
        "-sps --slot-prompt-similarity",
        0.1,
        low=0,
        high=1,
        help="part of a prompt that a slot must hold to be preferred to the one unused for longest",
    )
    pooling: str = option(
        "--pooling",
        "",
        values=Words({name: name for name in POOLINGS} | {"": ""}, "NAME"),
        help="how the states of tokens become an embedding: none, mean, cls, last",
        shown="the model's, else mean",
    )
    slot_save_path: Annotated[Any, Path | None] = option(
        "--slot-save-path",
        None,
        values=Parsed("DIR", _path, str),
        help="folder in which slots are saved",
        shown="none, they are not",
    )

    @property
    def cache_bytes(self) -> float:
        """Bytes of host memory for sequences that no slot has any more."""
        return float("inf") if self.cache_ram < 0 else self.cache_ram * _MIB
