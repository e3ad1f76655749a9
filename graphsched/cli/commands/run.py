"""`graphsched run`: text from a prompt, or a chat."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli import flags
from graphsched.cli.generation import Request, Run, with_seed
from graphsched.cli.interrupts import Interrupts
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.opening import open_session
from graphsched.cli.screen import Screen
from graphsched.cli.texts import is_piped, read_text, unescaped
from graphsched.cli.toggle import Toggle
from graphsched.cli.values import Number, Switch
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.session.options import SessionOptions
    from graphsched.text.chat_options import ChatOptions
    from graphsched.text.grammar import Grammar
    from graphsched.text.grammar_options import GrammarOptions
    from graphsched.text.options import SamplingOptions

DEFAULT_PROMPT: Final = "Once upon a time"
SYSTEM: Final = {"-sys": "system_prompt", "-sysf": "system_file"}
NO_CHAT: Final = "as they are for a chat, which is -i"
NO_SAMPLER: Final = "as what they are about is off, or not among the samplers"
NO_CHOICE: Final = "as the likeliest token is taken"


@click.command(cls=ModelCommand, epilog="Example: graphsched run -p 'Once upon a time' -n 64 --temp 0")
@click.option(
    "-p", "--prompt", metavar="TEXT", help=f"text to continue (default: standard input, or {DEFAULT_PROMPT})"
)
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
    "-e", "--escape/--no-escape", default=True, help="\\n, \\t, \\xHH in -p, -r are escapes (default: yes)"
)
@click.option("--ignore-eos", is_flag=True, help="go on behind the model's end token")
@click.option(
    "-r",
    "--reverse-prompt",
    "reverse",
    multiple=True,
    metavar="TEXT",
    help="stop behind this text; repeatable",
)
@click.option("-sp", "--special", is_flag=True, help="print control tokens, too")
@click.option(
    "--display-prompt/--no-display-prompt", default=True, help="print the prompt in front (default: yes)"
)
@click.option("--verbose-prompt", is_flag=True, help="list the prompt's tokens")
@click.option(
    "-i",
    "--interactive",
    "-cnv",
    "--conversation",
    "interactive",
    cls=Toggle,
    off=("-no-cnv", "--no-conversation"),
    type=Switch(),
    default="0",
    help="chat, with the model's own template (default: 0)",
)
@click.option("-sys", "--system-prompt", metavar="TEXT", help="what a chat begins with")
@click.option("-sysf", "--system-prompt-file", "system_file", metavar="FILE", help="read that from a file")
@click.option("-st", "--single-turn", "single", is_flag=True, help="one answer, then the chat ends")
@flags.chat
@flags.session
@flags.sampling
@flags.grammar
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the text: no hints, progress and times")
@click.option("--no-progress", is_flag=True, help="do not show what takes long")
@click.option("--no-timings", "--no-perf", is_flag=True, help="do not show times at the end")
def command(
    model: Path | None,
    options: "SessionOptions",
    sampling: "SamplingOptions",
    chat: "ChatOptions",
    grammar: "GrammarOptions",
    interactive: bool,
    **values: Any,
) -> None:
    """Generate text, or chat with -i.

    Prompt and generated text go to standard output, all else to standard error. Ctrl-C ends it.
    """
    screen = Screen(quiet=values["quiet"], verbose=values["verbose"], progress=not values["no_progress"])
    values["system_prompt"] = system_prompt(values, interactive)
    text = prompt_text(values, None if interactive else DEFAULT_PROMPT, screen)
    request = request_of(values, sampling, chat, grammar.chosen)
    with Interrupts() as interrupts:
        session = open_session(model, options, screen, interrupts, needs_text=True)
        for_chats = () if interactive else (*chat.given, *(["-st"] if values["single"] else []))
        for names, why in (
            (for_chats, NO_CHAT),
            (sampling.unused, NO_SAMPLER),
            (sampling.outdone, NO_CHOICE),
        ):
            if names:
                screen.hint(f"hint: without effect: {', '.join(map(flags.flag_of, names))}, {why}")
        run = Run(request, session, screen, interrupts)
        run.chat(text) if interactive else run.complete(text or "")


def request_of(
    values: dict[str, Any], sampling: "SamplingOptions", chat: "ChatOptions", grammar: "Grammar | None"
) -> Request:
    """What is asked for, with a seed that is drawn now if none is given. OptionError for an empty -r."""
    sampling, has_drawn_seed = with_seed(sampling)
    return Request(
        values["n_predict"],
        sampling,
        chat,
        grammar,
        values["system_prompt"],
        values["single"],
        reverse_prompts(values),
        ignore_eos=values["ignore_eos"],
        special=values["special"],
        shows_prompt=values["display_prompt"],
        lists_prompt=values["verbose_prompt"],
        no_timings=values["no_timings"],
        has_drawn_seed=has_drawn_seed,
    )


def prompt_text(values: dict[str, Any], default: str | None, screen: Screen) -> str | None:
    """The prompt that was given, in a flag or on standard input, else the default one: None for a chat.

    A chat reads what the user says from standard input.
    """
    prompt, file = values["prompt"], values["file"]
    if file is not None:
        if prompt is not None:
            raise OptionError("there is one prompt, -p or -f")
        return read_text(file)
    if prompt is None and default is not None and is_piped():
        screen.long("reading the prompt from standard input")
        piped = read_text("-")
        screen.clear()
        return piped or default
    if prompt is None:
        return default
    return unescaped(prompt) if values["escape"] else str(prompt)


def system_prompt(values: dict[str, Any], interactive: bool) -> str | None:
    """What a chat begins with. OptionError for two of them, and where there is no chat."""
    given = {flag: values[name] for flag, name in SYSTEM.items() if values[name] is not None}
    if given and not interactive:
        raise OptionError(f"{next(iter(given))} is for a chat, which is -i")
    if len(given) > 1:
        raise OptionError("there is one system prompt, -sys or -sysf")
    return read_text(values["system_file"]) if values["system_file"] is not None else values["system_prompt"]


def reverse_prompts(values: dict[str, Any]) -> tuple[str, ...]:
    """The texts of -r. OptionError for an empty one."""
    if not all(values["reverse"]):
        raise OptionError("-r is empty, a text is needed")
    return tuple(unescaped(text) if values["escape"] else text for text in values["reverse"])
