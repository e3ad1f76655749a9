"""The options of sampling and of chats. Imports nothing slow, `--help` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from graphsched.errors import OptionError
from graphsched.option import Number, Options, Parsed, option, shown


def _template(given: Any) -> str | None:
    from graphsched.text.chat_templates import parse_template

    return None if given is None else parse_template("", str(given))


def _template_file(given: Any) -> str | None:
    from graphsched.text.chat_templates import read_template

    return None if given is None else read_template("", str(given))


def _values(given: Any) -> Mapping[str, Any]:
    from graphsched.text.chat_templates import parse_values

    return parse_values("", given) if isinstance(given, str) else dict(given)


@dataclass(frozen=True)
class SamplingOptions(Options):
    """How to choose a token; temperature 0 and below takes the likeliest. OptionError outside the valid ranges.

    seed: None is another one each time.
    """

    temperature: float = option(
        "--temp",
        0.8,
        needed="a finite number, 0 and below being greedy",
        help="temperature, 0 takes the likeliest token",
    )
    top_k: int = option(
        "--top-k",
        40,
        low=0,
        needed="an integer from 0 (off) up",
        help="choose among so many likeliest tokens, 0 is off",
    )
    top_p: float = option(
        "--top-p",
        0.95,
        low=0,
        high=1,
        needed="a number from 0 to 1 (off)",
        help="choose among tokens that together have P",
    )
    min_p: float = option(
        "--min-p",
        0.05,
        low=0,
        high=1,
        needed="a number from 0 (off) to 1",
        help="choose among tokens with P of the likeliest's",
    )
    repeat_penalty: float = option(
        "--repeat-penalty",
        1.0,
        low=0.01,
        high=100,
        needed="a number from 0.01 to 100, 1 being off",
        help="against repetition, 1 is off",
    )
    repeat_last_n: int = option(
        "--repeat-last-n",
        64,
        low=-1,
        needed="an integer from 0 (off) up, or -1 for all tokens",
        help="tokens it looks at, -1 for all",
    )

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature <= 0

    seed: int | None = option(
        "-s --seed",
        None,
        values=Number(int, 0, also={-1: None}, needed="an integer from -1 up", is_optional=True),
        help="seed of the choices",
        shown="-1, another each time",
    )


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
