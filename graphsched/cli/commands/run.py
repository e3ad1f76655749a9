"""`graphsched run`: text from a prompt, or a chat."""

import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli import flags
from graphsched.cli.interrupts import INTERRUPTED, Interrupts
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.opening import open_session
from graphsched.cli.screen import Screen, rates
from graphsched.cli.values import Number
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.session.options import SessionOptions
    from graphsched.session.session import Session, Timings
    from graphsched.text.sampling import SamplingOptions

DEFAULT_PROMPT: Final = "Once upon a time"
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{1,2})|([nrt'\"\\]))")
_ESCAPED: Final = dict(zip(b"nrt'\"\\", (b"\n", b"\r", b"\t", b"'", b'"', b"\\"), strict=True))


@dataclass(frozen=True)
class Request:
    """Arguments of `run` besides the options of session and sampling."""

    prompt: str | None
    file: str | None
    n_predict: int
    escape: bool
    ignore_eos: bool
    interactive: bool
    system_prompt: str | None
    verbose: bool
    quiet: bool
    no_progress: bool
    no_timings: bool


@click.command(cls=ModelCommand, epilog="Example: graphsched run -p 'Once upon a time' -n 64 --temp 0")
@click.option("-p", "--prompt", metavar="TEXT", help=f"text to continue (default: {DEFAULT_PROMPT})")
@click.option("-f", "--file", metavar="FILE", help="read that text from a file, - being standard input")
@click.option(
    "-n",
    "--predict",
    "--n-predict",
    "n_predict",
    type=Number(int, 0, "-1 and -2 (no limit)"),
    default=-1,
    help="tokens to generate (default: -1 or -2, until the model ends or the context is full)",
)
@click.option(
    "-e", "--escape/--no-escape", default=True, help="\\n, \\t, \\xHH in -p are escapes (default: yes)"
)
@click.option("--ignore-eos", is_flag=True, help="go on behind the model's end token")
@click.option("-i", "--interactive", is_flag=True, help="chat, with the model's own template")
@click.option("-sys", "--system-prompt", metavar="TEXT", help="what a chat begins with")
@flags.session
@flags.sampling
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the text: no hints, progress and times")
@click.option("--no-progress", is_flag=True, help="do not show what takes long")
@click.option("--no-timings", "--no-perf", is_flag=True, help="do not show times at the end")
def command(
    model: Path | None, options: "SessionOptions", sampling: "SamplingOptions", **values: object
) -> None:
    """Generate text, or chat with -i.

    Prompt and generated text go to standard output, all else to standard error. Ctrl-C ends it.
    """
    request = Request(**values)  # type: ignore[arg-type]  # click gives what the flags declare
    text = prompt_text(request)
    screen = Screen(quiet=request.quiet, verbose=request.verbose, progress=not request.no_progress)
    with Interrupts() as interrupts:
        session = open_session(model, options, screen, interrupts)
        run = Run(request, session, sampling, screen, interrupts)
        run.chat(text) if request.interactive else run.complete(text or "")


@dataclass
class Run:
    """One run of a loaded model."""

    request: Request
    session: "Session"
    sampling: "SamplingOptions"
    screen: Screen
    interrupts: Interrupts

    @property
    def generation(self) -> dict[str, Any]:
        """Arguments of `Session.generate`."""
        r = self.request
        return {"n_predict": r.n_predict, "sampling": self.sampling, "stop_on_eog": not r.ignore_eos}

    def complete(self, text: str) -> None:
        """The prompt and what the model makes of it."""
        ids = self.session.tokenizer.encode(text, parse_special=True)
        if not ids:
            raise OptionError("the prompt is empty and this model has no token that begins a text")
        out, started = Output(text), time.perf_counter()
        self.screen.on_ready = out.begin  # not before, or the progress line would overwrite it

        def finish() -> None:
            out.end()
            if self.session.stop_reason == "context":
                self.screen.say(f"the context of {self.session.n_ctx} tokens is full, a larger one is -c N")
            self.report(so_far(self.session, started))

        self.interrupts.last_words = finish
        with self.interrupts.aborting(self.session):
            for piece in self.session.generate(ids, **self.generation):
                out.write(piece)
        self.interrupts.finish()
        if self.session.stop_reason == "abort":
            raise click.exceptions.Exit(INTERRUPTED)

    def chat(self, text: str | None) -> None:
        """A conversation, until its end is asked for."""
        from graphsched.cli.interactive import Chat, converse

        chat = Chat(self.session, system=self.request.system_prompt, **self.generation)
        self.interrupts.last_words = lambda: self.report(chat.timings)
        ended = converse(chat, text, self.screen, self.interrupts)
        self.interrupts.finish()
        if not ended:
            raise click.exceptions.Exit(INTERRUPTED)

    def report(self, timings: "Timings") -> None:
        """Prints the timings."""
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


def prompt_text(request: Request) -> str | None:
    """The prompt that was given, else the default one; None for a chat that begins with the user."""
    if request.system_prompt is not None and not request.interactive:
        raise OptionError("-sys is for a chat, which is -i")
    if request.file is not None:
        if request.prompt is not None:
            raise OptionError("there is one prompt, -p or -f")
        return read_text(request.file)
    if request.prompt is None:
        return None if request.interactive else DEFAULT_PROMPT
    return unescaped(request.prompt) if request.escape else request.prompt


def read_text(name: str) -> str:
    """A text file without its last newline, as llama.cpp takes it."""
    from graphsched.text.plain import decoded

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return decoded(data).removesuffix("\n")
    except OSError as e:
        raise OptionError(f"{name}: {(e.strerror or str(e)).lower()}") from None
    except UnicodeDecodeError as e:
        raise OptionError(f"{name}: is not UTF-8 text, byte {e.start} is 0x{e.object[e.start]:02x}") from None


def unescaped(text: str) -> str:
    r"""Text with \n, \r, \t, \', \", \\ and \xHH (a byte) replaced; other backslashes stay, as in llama.cpp."""
    data = _ESCAPE.sub(
        lambda m: bytes([int(m[1], 16)]) if m[1] else _ESCAPED[m[2][0]],
        text.encode("utf-8", "surrogateescape"),
    )
    return data.decode("utf-8", "replace")
