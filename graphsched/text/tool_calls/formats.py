"""What describes how models of a family write calls of tools."""

import re
from dataclasses import dataclass
from typing import Literal

Style = Literal["objects", "keyed", "named", "parameters", "literals"]


@dataclass(frozen=True)
class Format:
    """Marks around calls.

    opening, closing: around all calls, or around each one; closing is empty if the answer's end closes them. style: how
    a call is written.
    objects: JSON objects (or lists of them) with name and arguments; keyed: with the arguments under the name.
    named: `head` matches up to the arguments, which are JSON, and has the group `name`; `tail` follows them.
    parameters: `head` as before; then `parameter` matches each, with groups `key` and `value`, and `tail` ends a call.
    literals: as parameters, but the value is a literal as in Python, texts perhaps between two `quote`.
    write: a call, with {name}, {arguments} and {n}, its number; of parameters each is a write_parameter, with {key} and
    {value}, and write_between stands between two. first, last and between: what stands in front of, behind and between
    the calls of a section. is_alone: a call ends the answer.
    """

    name: str
    opening: str
    closing: str
    style: Style
    head: re.Pattern[str] | None = None
    tail: str = ""
    parameter: re.Pattern[str] | None = None
    write: str = ""
    write_parameter: str = ""
    write_between: str = ""
    quote: str = ""
    is_each: bool = False  # opening and closing are around each call
    is_part: bool = False  # the opening is the beginning of the first call itself
    first: str = ""
    last: str = ""
    between: str = ""
    is_alone: bool = False
