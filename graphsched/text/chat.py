"""Chat messages to the text a model was trained on, by the Jinja2 template in its file."""

import copy
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NoReturn

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from graphsched.errors import Error
from graphsched.gguf.format import printable

# ChatML without a system message of its own, for models that bring no template
DEFAULT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MAX_SECONDS: Final = 2.0  # of CPU time for one rendering; honest templates take milliseconds
_SECONDS_OF_MESSAGE: Final = 0.01  # the longest templates take a quarter of that
_MAX_SIZE: Final = 1_000_000  # characters, elements or bits that one * or ** may make


def render(
    template: str | None,
    messages: Sequence[Mapping[str, Any]],
    *,
    bos: str,
    eos: str,
    add_generation_prompt: bool = True,
    tools: Sequence[Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> str:
    """The prompt for a conversation; None stands for a ChatML template, and so does an empty one.

    `more` are further values that a template may ask for, such as enable_thinking. Raises TemplateFailure, one
    sentence, for whatever the template does wrong: it comes with a file and is not trusted.
    """
    own = copy.deepcopy({**(more or {}), "messages": messages, "tools": tools})  # a template may change them
    values = {**own, "bos_token": bos, "eos_token": eos}
    text = template if template and template.strip() else DEFAULT_TEMPLATE
    _deadline.at = time.thread_time() + MAX_SECONDS + len(messages) * _SECONDS_OF_MESSAGE
    try:
        return _compiled(text).render(values | {"add_generation_prompt": add_generation_prompt})
    except Exception as e:  # a template is a program, it can raise anything
        what = " ".join(str(e).split())[:200] or type(e).__name__
        what = what if what.isprintable() else ascii(what)[1:-1]
        raise TemplateFailure(f"the chat template failed: {what}") from None


def syntax_error(template: str) -> str | None:
    """What is wrong with a template that nothing can be rendered with, None if it is a program at least."""
    try:
        _compiled(template)
    except TemplateSyntaxError as e:
        return f"{printable(' '.join(str(e.message).split()))} in line {e.lineno}"
    return None


class TemplateFailure(Error):
    """A template that cannot be rendered, or refuses a conversation."""


class _Deadline(threading.local):
    """The CPU time of this thread at which its rendering has to be done."""

    at = math.inf


_deadline: Final = _Deadline()


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return _Sandbox().from_string(template)


class _Generation(Extension):
    """{% generation %} marks what an assistant says, for training; here it is just text."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """What templates written for Hugging Face expect, with an end to every loop."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        extensions = ["jinja2.ext.loopcontrols", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters["tojson"] = _to_json
        self.globals |= {"raise_exception": _raise, "strftime_now": _now}
        del self.globals["lipsum"]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Lists may grow by one element at a time, as Kimi's template has them do: loops have an end."""
        return (isinstance(obj, list) and attr == "append") or super().is_safe_attribute(obj, attr, value)

    def check_time(self) -> None:
        """Called by the template itself in each pass of a loop and each call of a macro."""
        if time.thread_time() > _deadline.at:
            raise TemplateError(f"it runs for more than {MAX_SECONDS:g} seconds")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """One operation cannot be interrupted, so its result must not be huge."""
        if _result_size(operator, left, right) > _MAX_SIZE:
            raise TemplateError(f"the result of an operator {operator} is too large")
        return super().call_binop(context, operator, left, right)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        # the sandbox limits range(), but not loops in loops nor macros that call themselves
        check = nodes.Call(nodes.EnvironmentAttribute("check_time"), [], [], None, None)
        for node in list(source.find_all(nodes.Stmt)):
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.Or(check, node.test)
            if isinstance(node, nodes.For | nodes.Macro):
                node.body.insert(0, nodes.ExprStmt(check))
        source.set_environment(self)
        return super()._generate(source, *args, **kwargs)


def _result_size(operator: str, left: Any, right: Any) -> float:
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if isinstance(left, str | list | tuple):
        left, right = right, left
    return left * len(right) if isinstance(left, int) and isinstance(right, str | list | tuple) else 0


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Unlike Jinja2's filter of that name it escapes nothing for HTML."""
    plain = list(value) if isinstance(value, Iterator) else value
    return json.dumps(plain, ensure_ascii=ensure_ascii, indent=indent, **options)
