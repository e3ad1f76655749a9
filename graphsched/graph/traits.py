"""Properties of ops besides their formula. The core asks for these, and knows no op by name."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """Properties of an op, declared with it; names are those of its operands.

    view: the result is memory of the first operand in another shape. result_of: the op of several results of which this
    is one, whose memory is its own. product: the matrices of a product, whose type decides at which rate it computes.
    chosen_by: the ids that choose from the first dimension of these matrices, for each row some. gathers: it reads
    the rows that ids name and no others. reads_cache: what may be the rows of a cache, so that it runs beside them.
    writes_cache: the cache that it writes, and whose memory its result is. updates: the state that it reads and changes
    in place, which is not its result; it runs where that state lives. rate: the kind of arithmetic if it does not
    follow from the matrices. named_by_weight: a node is named after its first weight. keeps_label: a node has
    the label of its first source. label: that of a node for which the label table has none.
    """

    view: bool = False
    result_of: str = ""
    product: tuple[str, ...] = ()
    chosen_by: str = ""
    gathers: bool = False
    reads_cache: str = ""
    writes_cache: str = ""
    updates: str = ""
    rate: str = ""
    named_by_weight: bool = True
    keeps_label: bool = False
    label: str = ""

    @property
    def no_work(self) -> bool:
        """Whether the node is a view or a PART, for which no kernel runs."""
        return self.view or bool(self.result_of)

    @property
    def operands(self) -> Iterator[str]:
        """Every operand that a property names."""
        single = (self.result_of, self.chosen_by, self.reads_cache, self.writes_cache, self.updates)
        yield from filter(None, (*self.product, *single))


NO_TRAITS = Traits()  # of weights, inputs and caches
