"""Tables of fields: what a request may have, one declaration per field, for reading it and for the OpenAPI document."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphsched.serve.api.failures import refused
from graphsched.serve.api.kinds import Kind, is_not


@dataclass(frozen=True)
class Field:
    """A field of a JSON object: its name, what it may hold, and the name under which the program knows it.

    null is as good as nothing. Of several fields with one target the last one that is given counts.
    """

    name: str
    kind: Kind
    target: str = ""
    required: bool = False
    help: str = ""

    @property
    def key(self) -> str:
        """The name under which the program knows it."""
        return self.target or self.name

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        return self.kind.schema | ({"description": self.help} if self.help else {})


@dataclass(frozen=True)
class Table:
    """The fields of an object; others are left alone, as other servers do. A table is a kind itself."""

    fields: tuple[Field, ...]
    needed: str = "an object"

    @property
    def schema(self) -> dict[str, Any]:
        """The object's JSON schema."""
        found = {"type": "object", "properties": {f.name: f.schema for f in self.fields}}
        names = [f.name for f in self.fields if f.required]
        return found | ({"required": names} if names else {})

    def fits(self, given: Any) -> bool:
        """Whether it is an object."""
        return isinstance(given, Mapping)

    def read(self, given: Any, at: str = "") -> dict[str, Any]:
        """The values that are given, by the names of the program. Failure for the first bad or missing one."""
        if not isinstance(given, Mapping):
            raise is_not(given, at or "the body", self.needed)
        found = {}
        for field in self.fields:
            where = f"{at}.{field.name}" if at else field.name
            if (value := given.get(field.name)) is not None:
                found[field.key] = field.kind.read(value, where)
            elif field.required:
                raise refused(where, "is missing")
        return found

    def __add__(self, other: "Table") -> "Table":
        return Table((*self.fields, *other.fields), self.needed)


def table(*fields: Field | Iterable[Field]) -> Table:
    """A table of fields, and of groups of them."""
    return Table(tuple(f for item in fields for f in ((item,) if isinstance(item, Field) else item)))
