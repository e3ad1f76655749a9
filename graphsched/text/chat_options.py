"""The options of chats. Imports nothing slow, `--help` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from graphsched.errors import OptionError
from graphsched.option import Options, Parsed, option, shown


def _template(given: Any) -> str | None:
    from graphsched.text.chat_templates import parse_template

    return None if given is None else parse_template("", str(given))


def _template_file(given: Any) -> str | None:
    from graphsched.text.plain import read_plain

    return None if given is None else read_plain("", str(given))


def _values(given: Any) -> Mapping[str, Any]:
    from graphsched.text.chat_templates import parse_values

    return parse_values("", given) if isinstance(given, str) else dict(given)


@dataclass(frozen=True, kw_only=True)
class ChatOptions(Options):
    """How a chat's template is found, and what it is told. OptionError for texts that cannot be read.

    chat_template, chat_template_file: texts of templates, None where the model's own is meant; there is one of them.
    chat_template_kwargs: further values for it. reasoning_budget: tokens of thoughts, -1 for any number.
    """

    chat_template: Annotated[Any, str | None] = option(
        "--chat-template",
        None,
        values=Parsed("NAME|TEXT", _template),
        help="a chat's template, a name or its text",
        shown="the model's",
    )
    chat_template_file: Annotated[Any, str | None] = option(
        "--chat-template-file",
        None,
        values=Parsed("FILE", _template_file),
        help="read that template from a file",
        shown="",
    )
    chat_template_kwargs: Annotated[Any, Mapping[str, Any]] = option(
        "--chat-template-kwargs",
        "{}",
        values=Parsed("JSON", _values),
        help="further values for the template",
        shown="",
    )
    reasoning_budget: int = option(
        "--reasoning-budget",
        -1,
        low=-1,
        needed="an integer from 0 up or -1 (no limit)",
        help="tokens of thoughts in an answer, 0 for none",
        shown="-1, no limit",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chat_template is not None and self.chat_template_file is not None:
            raise OptionError(
                "and --chat-template-file are both given, there is one template", "chat_template"
            )

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that differ from their defaults."""
        return tuple(name for name, value in shown(self).items() if value != shown(type(self)())[name])

    @property
    def given_template(self) -> str | None:
        """The template that takes the place of the model's."""
        return self.chat_template if self.chat_template_file is None else self.chat_template_file

    @property
    def all_values(self) -> Mapping[str, Any]:
        """What the template is told, of the budget, too; a value that is given by name counts."""
        from graphsched.text.chat_templates import budget_values

        return budget_values(self.reasoning_budget) | self.chat_template_kwargs
