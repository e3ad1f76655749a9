"""The rules that answers follow: grammars of what requests hold them to, and where in an answer they begin."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.serve.api.failures import Failure, refused
from graphsched.serve.api.reading import Reading
from graphsched.serve.api.structure import Structure, Tools
from graphsched.text.call_grammar import grammar_of
from graphsched.text.constrained import Rules
from graphsched.text.grammar import Grammar
from graphsched.text.tokenizer import Tokenizer

_MADE: Final[dict[str, Callable[[Any], Grammar]]] = {
    "json": lambda value: Grammar.from_json(),
    "schema": Grammar.from_schema,
    "gbnf": Grammar.from_gbnf,
}


def structure_rules(structure: Structure) -> Rules:
    """The rules of an answer that begins at once. Failure for a grammar that cannot be followed."""
    with _field(structure.at):
        return Rules(_MADE[structure.kind](structure.value))


def chat_rules(
    structure: Structure | None, tools: Tools | None, reading: Reading, tokenizer: Tokenizer
) -> Rules | None:
    """The rules of an answer to a chat, which may think first. Failure for what cannot be followed."""
    if structure is not None:
        if tools is not None:
            raise refused(structure.at, "and tools are both given, an answer is held to one of them")
        return structure_rules(structure).behind_thoughts(reading.marks, is_open=reading.in_thoughts)
    return None if tools is None else _tool_rules(tools, reading, tokenizer)


def _tool_rules(tools: Tools, reading: Reading, tokenizer: Tokenizer) -> Rules | None:
    """Of a call that has to be made, or of those that are begun; tools that promise nothing may be beyond grammars."""
    assert reading.format is not None
    format = reading.format
    if tools.must:
        with _field("tools"):
            made = grammar_of(
                format, tools.callable_schemas, tokenizer, parallel=tools.is_parallel and not tools.only
            )
            if reading.marks.has_channels:
                return Rules(made)  # a call has a channel of its own
            return Rules(made).behind_thoughts(reading.marks, is_open=reading.in_thoughts)
    with _field("tools") if tools.is_strict else suppress(OptionError):
        made = grammar_of(format, tools.schemas, tokenizer, parallel=tools.is_parallel)
        return Rules(made, lazy_from=format.opening)
    return None


@contextmanager
def _field(at: str) -> Iterator[None]:
    """Tells which field a grammar comes from."""
    try:
        yield
    except OptionError as e:
        raise Failure(400, str(e), param=at) from None
