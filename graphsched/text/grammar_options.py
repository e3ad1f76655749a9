"""The options of grammars that a text follows. Imports nothing slow, `--help` reads them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from graphsched.errors import OptionError
from graphsched.option import Options, Parsed, declarations, option

if TYPE_CHECKING:
    from graphsched.text.grammar import Grammar


def _gbnf(text: str) -> "Grammar":
    from graphsched.text.grammar import Grammar

    return Grammar.from_gbnf(text)


def _schema(text: str) -> "Grammar":
    from graphsched.text.grammar import Grammar

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise OptionError('a JSON object is needed, as in {"type": "object"}')
    return Grammar.from_schema(found)


def _given(make: Callable[[str], "Grammar"], *, is_file: bool = False) -> Callable[[Any], Any]:
    """Reads a grammar as text, or out of a file; leaves alone what is one."""

    def read(given: Any) -> Any:
        if not isinstance(given, str):
            return given
        from graphsched.gguf.format import printable, shown
        from graphsched.text.plain import read_plain

        text, name = (read_plain("", given), printable(given)) if is_file else (given, shown(given))
        try:
            return make(text)
        except OptionError as e:
            raise OptionError(f"{name}: {e}") from None

    return read


@dataclass(frozen=True, kw_only=True)
class GrammarOptions(Options):
    """What a text is held to, None for nothing. OptionError for what cannot be used, and for several of them."""

    grammar: "Annotated[Any, Grammar | None]" = option(
        "--grammar",
        None,
        values=Parsed("TEXT", _given(_gbnf)),
        help="the text follows a grammar (GBNF)",
        shown="",
    )
    grammar_file: "Annotated[Any, Grammar | None]" = option(
        "--grammar-file",
        None,
        values=Parsed("FILE", _given(_gbnf, is_file=True)),
        help="read that grammar from a file",
        shown="",
    )
    json_schema: "Annotated[Any, Grammar | None]" = option(
        "-j --json-schema",
        None,
        values=Parsed("JSON", _given(_schema)),
        help="the text is JSON of a schema, {} for any object",
        shown="",
    )
    json_schema_file: "Annotated[Any, Grammar | None]" = option(
        "-jf --json-schema-file",
        None,
        values=Parsed("FILE", _given(_schema, is_file=True)),
        help="read that schema from a file",
        shown="",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in declarations(type(self)) if getattr(self, name) is not None]
        if len(given) > 1:
            other = declarations(type(self))[given[1]].flags[-1]
            raise OptionError(f"and {other} are both given, a text is held to one of them", given[0])

    @property
    def chosen(self) -> "Grammar | None":
        """The one that was given."""
        return self.grammar or self.grammar_file or self.json_schema or self.json_schema_file
