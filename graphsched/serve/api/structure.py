"""What an answer is held to: the fields of grammars, schemas and tools, and what they mean together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from graphsched.serve.api.failures import refused
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.kinds import AnyObject, Choice, Either, Flag, ListOf, Text

MAX_GRAMMAR: Final = 1 << 16  # characters
MAX_TOOLS: Final = 512
_FUNCTION: Final = table(
    Field("name", Text(128), required=True),
    Field("description", Text()),
    Field("parameters", AnyObject()),
    Field("strict", Flag()),
)
_TOOL: Final = table(
    Field("type", Choice(("function",)), required=True), Field("function", _FUNCTION, required=True)
)
_NAMED: Final = table(
    Field("type", Choice(("function",)), required=True),
    Field("function", table(Field("name", Text(128), required=True)), required=True),
)
_ANY: Final[dict[str, Any]] = {"parameters": {"type": "object", "properties": {}}}
_SCHEMA: Final = table(
    Field("name", Text()), Field("schema", AnyObject()), Field("strict", Flag()), Field("description", Text())
)
_FORMAT: Final = table(
    Field("type", Choice(("text", "json_object", "json_schema")), required=True),
    Field("json_schema", _SCHEMA),
    Field("schema", AnyObject()),  # as llama.cpp has it
)
GRAMMARS: Final = (
    Field("grammar", Text(MAX_GRAMMAR), help="a grammar in GBNF that the answer is held to"),
    Field("json_schema", AnyObject(), help="a JSON schema that it is held to"),
)
TOOLS: Final = (
    Field("tools", ListOf(_TOOL, MAX_TOOLS), help="what the model may call"),
    Field("tool_choice", Either((Choice(("auto", "none", "required")), _NAMED)), help="whether it has to"),
    Field("parallel_tool_calls", Flag(), help="whether it may call several at once"),
)
RESPONSE_FORMAT: Final = Field("response_format", _FORMAT, help="text, JSON, or JSON of a schema")


@dataclass(frozen=True)
class Structure:
    """What an answer is held to: any JSON object, a JSON schema, or a grammar in GBNF; at: the field that says it."""

    kind: Literal["json", "schema", "gbnf"]
    value: Any
    at: str


@dataclass(frozen=True)
class Tools:
    """The functions that may be called, as templates take them. must: one has to be called, `only` if it is named."""

    functions: tuple[Mapping[str, Any], ...]
    must: bool = False
    only: str = ""
    is_parallel: bool = True

    @property
    def schemas(self) -> dict[str, Mapping[str, Any]]:
        """The schemas of the arguments by the functions' names."""
        return {f["function"]["name"]: f["function"]["parameters"] for f in self.functions}

    @property
    def callable_schemas(self) -> dict[str, Mapping[str, Any]]:
        """Those of the functions that the choice leaves."""
        return {name: schema for name, schema in self.schemas.items() if self.only in ("", name)}

    @property
    def is_strict(self) -> bool:
        """Whether a function promises arguments that follow its schema."""
        return any(f["function"].get("strict") for f in self.functions)


def structure_of(v: Mapping[str, Any]) -> Structure | None:
    """What the fields hold an answer to. Failure for several that do."""
    found = [s for s in (_of_format(v), _of_schema(v), _of_grammar(v)) if s is not None]
    if len(found) > 1:
        raise refused(found[1].at, f"and {found[0].at} are both given, an answer is held to one of them")
    return found[0] if found else None


def _of_format(v: Mapping[str, Any]) -> Structure | None:
    given, at = v.get("response_format", {"type": "text"}), "response_format"
    if given["type"] == "text":
        return None
    schema = given.get("json_schema", {}).get("schema", given.get("schema"))
    if schema is not None:
        return Structure("schema", schema, at)
    if given["type"] == "json_schema":
        raise refused(f"{at}.json_schema.schema", "is missing")
    return Structure("json", None, at)


def _of_schema(v: Mapping[str, Any]) -> Structure | None:
    return Structure("schema", v["json_schema"], "json_schema") if "json_schema" in v else None


def _of_grammar(v: Mapping[str, Any]) -> Structure | None:
    return Structure("gbnf", v["grammar"], "grammar") if v.get("grammar") else None


def tools_of(v: Mapping[str, Any]) -> Tools | None:
    """The tools of the fields; None without any, and where none may be called. Failure for a choice of another one."""
    given, choice = v.get("tools", ()), v.get("tool_choice", "auto")
    only = "" if isinstance(choice, str) else choice["function"]["name"]
    if only and only not in {tool["function"]["name"] for tool in given}:
        raise refused("tool_choice.function.name", f"is {only}, which is no name in tools")
    if choice == "required" and not given:
        raise refused("tool_choice", "is required, tools are needed")
    if choice == "none" or not given:
        return None
    functions = tuple({"type": "function", "function": _ANY | tool["function"]} for tool in given)
    return Tools(functions, choice != "auto", only, v.get("parallel_tool_calls", True))
