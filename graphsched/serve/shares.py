"""Which rows a step computes: a token of each that generates, and pieces of prompts in fair order.

A step is one forward. Nothing waits longer than a step, so its rows bound how long running answers stand still:
`most_rows` says how many there are. All prompts that have a slot are read side by side. The one that came first has
half of the rows; the other half goes to the one with least left, and so on. So a short prompt overtakes a long one,
and the long one goes on at half speed at least.
"""

from collections.abc import Sequence
from typing import Final

FEWEST: Final = 32  # rows of the smaller step
_PART: Final = 4  # of a micro-batch, while someone waits for it


def most_rows(n_ubatch: int, n_generating: int, prompts: Sequence[int]) -> int:
    """Rows of the next step at most; prompts: tokens that are left of each.

    That is a micro-batch if there is a prompt only. It is a quarter while an answer is being generated: 32 rows at
    least, and one for each that generates and some for prompts. Of several prompts the shortest is to end in this step,
    if it can, without waiting for more rows of others than it has itself.
    """
    if not prompts:
        return n_ubatch
    small = min(max(n_ubatch // _PART, min(FEWEST, n_ubatch), n_generating + FEWEST // 2), n_ubatch)
    if n_generating:
        return small
    return min(max(2 * min(prompts), small), n_ubatch) if len(prompts) > 1 else n_ubatch


def shares(prompts: Sequence[int], room: int) -> list[int]:
    """How many tokens of each prompt are read when there is room for so many; prompts in the order they came."""
    found = [0] * len(prompts)
    if not prompts:
        return found
    found[0] = min(prompts[0], -(-room // 2) if len(prompts) > 1 else room)
    left = room - found[0]
    for i in sorted(range(len(prompts)), key=lambda i: (prompts[i] - found[i], i)):
        more = min(prompts[i] - found[i], left)
        found[i] += more
        left -= more
    return found
