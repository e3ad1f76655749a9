"""One run of a loaded model: a prompt that is continued, or a chat; what is printed of it, and where."""

import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli.interrupts import INTERRUPTED, Interrupts
from graphsched.cli.screen import Screen, rates
from graphsched.cli.tokens import listed
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.session.session import Session, Timings
    from graphsched.text.chat_options import ChatOptions
    from graphsched.text.constrained import Rules
    from graphsched.text.grammar import Grammar
    from graphsched.text.options import SamplingOptions


@dataclass(frozen=True)
class Request:
    """What `run` is asked for besides the options of the session."""

    n_predict: int
    sampling: "SamplingOptions"
    chat: "ChatOptions"
    grammar: "Grammar | None" = None
    system_prompt: str | None = None
    is_single: bool = False
    reverse_prompts: tuple[str, ...] = ()
    ignore_eos: bool = False
    special: bool = False
    shows_prompt: bool = True
    lists_prompt: bool = False
    no_timings: bool = False
    has_drawn_seed: bool = False

    @property
    def generation(self) -> dict[str, Any]:
        """Arguments of `Session.generate`."""
        return {
            "n_predict": self.n_predict,
            "sampling": self.sampling,
            "stop_on_eog": not self.ignore_eos,
            "stop": self.reverse_prompts,
            "special": self.special,
            "rules": self.rules,
        }

    @property
    def rules(self) -> "Rules | None":
        """What the text is held to."""
        from graphsched.text.constrained import Rules

        return None if self.grammar is None else Rules(self.grammar)


def with_seed(sampling: "SamplingOptions") -> tuple["SamplingOptions", bool]:
    """The options with a seed, and whether it is a drawn one: where there is none and chance decides."""
    if sampling.seed is not None or sampling.is_greedy:
        return sampling, False
    return replace(sampling, seed=secrets.randbits(32)), True


@dataclass
class Run:
    """One run of a loaded model."""

    request: Request
    session: "Session"
    screen: Screen
    interrupts: Interrupts

    def complete(self, text: str) -> None:
        """The prompt and what the model makes of it."""
        ids = self._prompt(text)
        out, started = Output(text if self.request.shows_prompt else ""), time.perf_counter()
        self.screen.on_ready = out.begin  # not before, or the progress line would overwrite it

        def finish() -> None:
            out.end()
            if self.session.stop_reason == "context":
                self.screen.say(f"the context of {self.session.n_ctx} tokens is full, a larger one is -c N")
            self.report(so_far(self.session, started))

        self.interrupts.last_words = finish
        with self.interrupts.aborting(self.session):
            for piece in self.session.generate(ids, **self.request.generation):
                out.write(piece)
        self.interrupts.finish()
        if self.session.stop_reason == "abort":
            raise click.exceptions.Exit(INTERRUPTED)

    def _prompt(self, text: str) -> list[int]:
        """The ids of a prompt, with what there is to say about them."""
        tokenizer = self.session.tokenizer
        ids = tokenizer.encode(text, parse_special=True)
        if not ids:
            raise OptionError("the prompt is empty and this model has no token that begins a text")
        if tokenizer.begins_twice(ids):
            own = "--override-kv tokenizer.ggml.add_bos_token=bool:false"
            self.screen.hint(
                f"hint: the prompt begins with its own BOS, and so there are two; {own} leaves one out"
            )
        self.list_prompt(ids)
        return ids

    def list_prompt(self, ids: list[int]) -> None:
        """Says which tokens the model reads, if that is asked for."""
        if self.request.lists_prompt:
            self.screen.say(f"{len(ids)} tokens in the prompt\n{listed(self.session.tokenizer, ids)}")

    def chat(self, text: str | None) -> None:
        """A conversation, until its end is asked for."""
        from graphsched.cli.interactive import Chat, converse

        asked = self.request.chat
        chat = Chat(
            self.session,
            system=self.request.system_prompt,
            template=asked.given_template,
            template_values=asked.all_values,
            reasoning_budget=asked.reasoning_budget,
            on_prompt=self.list_prompt,
            **self.request.generation,
        )
        self.interrupts.last_words = lambda: self.report(chat.timings)
        single = self.request.is_single
        ended = converse(chat, text, self.screen, self.interrupts, is_single=single)
        self.interrupts.finish()
        if not ended:
            raise click.exceptions.Exit(INTERRUPTED)

    def report(self, timings: "Timings") -> None:
        """Prints the seed that was drawn, with which the same text can be had again, and the timings."""
        if self.request.has_drawn_seed and timings.generated_tokens:
            self.screen.say(f"seed {self.request.sampling.seed}")
        if not self.request.no_timings:
            self.screen.say(rates(timings))


class Output:
    """Prompt and text on standard output, each piece at once, and one newline at the end."""

    def __init__(self, prompt: str) -> None:
        self._prompt: str | None = prompt

    def begin(self) -> None:
        """Writes the prompt if that is still to be done."""
        if self._prompt is not None:
            prompt, self._prompt = self._prompt, None
            print(prompt, end="", flush=True)

    def write(self, piece: str) -> None:
        """Prints a piece of the answer at once."""
        self.begin()
        print(piece, end="", flush=True)

    def end(self) -> None:
        """Ends the line of the answer."""
        self.write("\n")


def so_far(session: "Session", started: float) -> "Timings":
    """The session's times; of a prompt that was interrupted, the part that was read."""
    if session.timings.prompt_ms:
        return session.timings
    spent = (time.perf_counter() - started) * 1e3
    return replace(session.timings, prompt_tokens=session.n_past, prompt_ms=spent)
