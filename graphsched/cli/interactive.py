"""A chat: the conversation as the model's template writes it, and the loop that reads and answers."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, Final

from graphsched.cli.interrupts import Interrupts
from graphsched.cli.screen import Screen, is_terminal
from graphsched.errors import ContextError
from graphsched.session.session import Session, Timings
from graphsched.text.chat import TemplateFailure
from graphsched.text.chat_templates import budget_values
from graphsched.text.constrained import Rules
from graphsched.text.dialect import dialect_of, unprinted
from graphsched.text.thinking import Budget

PROMPT: Final = "> "


class Chat:
    """A conversation with a session; `generation` is for `Session.generate`.

    The model reads the whole conversation as its template writes it, each time; what the cache holds of that, the
    unchanged beginning, is not computed again. Answers go into it without thoughts, or with these apart, as the
    template wants them, and follow `rules`. `template` takes the place of the file's, `template_values` are further
    values for it, and `reasoning_budget` the tokens that thoughts may take, -1 for any number. `on_prompt` gets the ids
    of each prompt.
    Raises Error for a template that refuses, or never prints, what a user says.
    """

    def __init__(
        self,
        session: Session,
        *,
        system: str | None = None,
        template: str | None = None,
        template_values: Mapping[str, Any] | None = None,
        reasoning_budget: int = -1,
        rules: Rules | None = None,
        on_prompt: Callable[[list[int]], None] = lambda ids: None,
        **generation: Any,
    ) -> None:
        self.session, self._generation = session, generation
        self._budget, self._rules, self._on_prompt = reasoning_budget, rules, on_prompt
        given = session.tokenizer.chat_template if template is None else template
        self.dialect = dialect_of(given, session.tokenizer, more=template_values)
        self.timings = Timings(session.timings.load_ms, session.timings.compile_ms)
        self.notes = (*self.dialect.notes, *self._unused(template_values or {}))
        self._first: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._first)
        self._read: list[int] = []  # ids that the cache begins with
        self.unprinted: tuple[str, ...] = ()  # who said what the last prompt has nothing of

    def restart(self) -> bool:
        """Forgets the conversation; whether there was any."""
        had_any = len(self._messages) > len(self._first)
        self._messages = list(self._first)
        return had_any

    def answer(self, text: str) -> Iterator[str]:
        """The answer to a message, in pieces; raises ContextError if the conversation has become too long."""
        messages = [*self._messages, {"role": "user", "content": text}]
        prompt = self.dialect.render(messages)
        self.unprinted = tuple(messages[i]["role"] for i in unprinted(prompt, messages))
        ids = self.session.tokenizer.encode_prompt(prompt)
        self._on_prompt(ids)
        new = ids[self._keep(ids) :]
        pieces = []
        for piece in self.session.generate(new, **self._generation | self._limits(prompt)):
            pieces.append(piece)
            yield piece
        self._count()
        if pieces or self.session.stop_reason != "abort":
            answer = self.dialect.remembered(self._said(pieces), prompt)
            self._messages = self._messages if answer is None else [*messages, answer]

    def _limits(self, prompt: str) -> dict[str, Any]:
        """The budget of thoughts, and the rules, for an answer to a prompt, if there are any."""
        marks = self.dialect.marks
        is_open, has_budget = marks.opens(prompt), self._budget >= 0 and marks.ending
        rules = None if self._rules is None else self._rules.behind_thoughts(marks, is_open=is_open)
        limits = {"budget": Budget(self._budget, marks, is_open) if has_budget else None, "rules": rules}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def _said(self, pieces: Sequence[str]) -> str:
        """The answer without the texts of control tokens, which `special` shows."""
        if not self._generation.get("special"):
            return "".join(pieces)
        return self.session.tokenizer.decode(self.session.sampled, continuing=True)

    def _unused(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Sentences about what was given and the template has no use for."""
        template = self.dialect.template or ""
        told = [name for name in values if self._budget or name not in budget_values(0)]
        strange = [name for name in told if not re.search(rf"\b{re.escape(name)}\b", template)]
        if strange:
            yield f"hint: the chat template does not ask for {', '.join(strange)}"
        if self._budget >= 0 and not self.dialect.marks.ending:
            yield "hint: --reasoning-budget has no effect, neither template nor vocabulary have marks of thoughts"

    def _keep(self, ids: list[int]) -> int:
        """Rewinds the session to the ids that it has in common with these; how many that are."""
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._read, ids, strict=False)))
        kept = min(same, self.session.n_past, len(ids) - 1)  # the last one is read again, for its logits
        kept = kept if self.session.holds(kept) else 0
        self.session.rewind(kept)
        self._read = ids
        return kept

    def _count(self) -> None:
        total, last = self.timings, self.session.timings
        total.compile_ms = last.compile_ms
        total.prompt_tokens += last.prompt_tokens
        total.prompt_ms += last.prompt_ms
        total.generated_tokens += last.generated_tokens
        total.generate_ms += last.generate_ms


def converse(
    chat: Chat, first: str | None, screen: Screen, interrupts: Interrupts, *, is_single: bool = False
) -> bool:
    """Answers until the input ends (True) or Ctrl-C comes where there is no answer to end (False).

    is_single: there is one answer.
    """
    for note in chat.notes:
        screen.hint(note)
    try:
        while (text := first or read_message(interrupts)) is not None:
            first = None
            if text:
                _answer(chat, text, screen, interrupts)
            if text and is_single:
                break
    except KeyboardInterrupt:
        print(flush=True)
        return False
    return True


def _answer(chat: Chat, text: str, screen: Screen, interrupts: Interrupts) -> None:
    """Prints an answer; it is the first of a new conversation when the context is full, or the template fails."""
    try:
        _print(chat, text, interrupts)
        _say_what_is_lost(chat, screen)
        if chat.session.stop_reason == "context":
            screen.say(f"the context of {chat.session.n_ctx} tokens is full")
    except ContextError as e:
        if not chat.restart():
            screen.say(str(e))
            return
        screen.say(f"the context of {chat.session.n_ctx} tokens is full, the conversation starts again")
        _answer(chat, text, screen, interrupts)
    except TemplateFailure as e:
        if not chat.restart():
            screen.say(str(e))
            return
        screen.say(f"{e}; the conversation starts again")
        _answer(chat, text, screen, interrupts)


def _print(chat: Chat, text: str, interrupts: Interrupts) -> None:
    with interrupts.aborting(chat.session, is_patient=True):
        for piece in chat.answer(text):
            print(piece, end="", flush=True)
    print(flush=True)


def _say_what_is_lost(chat: Chat, screen: Screen) -> None:
    if roles := " and ".join(dict.fromkeys(chat.unprinted)):
        screen.hint(f"the chat template does not print all that {roles} said")


def read_message(interrupts: Interrupts) -> str | None:
    """What the user types, lines that end with a backslash continuing; None at the end of the input."""
    lines: list[str] = []
    while not lines or lines[-1].endswith("\\"):
        with interrupts.raising():
            line = _read_line()
        if line is None:
            return "\n".join(lines) if lines else None
        lines.append(line)
    return "\n".join(line.removesuffix("\\") for line in lines[:-1]) + ("\n" if lines[1:] else "") + lines[-1]


def _read_line() -> str | None:
    if not is_terminal(sys.stdin):
        line = sys.stdin.readline() if sys.stdin else ""
        # An editor's byte order mark is nothing that a user says.
        return line.removesuffix("\n").removeprefix("\ufeff") if line else None
    if not is_terminal(sys.stdout):  # it holds the answers only
        print(PROMPT, end="", file=sys.stderr, flush=True)
    with suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401  # gives input() its line editing
    try:
        return input(PROMPT if is_terminal(sys.stdout) else "")
    except EOFError:
        print()
        return None
