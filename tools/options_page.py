"""Writes docs/options.md: every option of a session, sampling, chats and the server, from their declarations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from graphsched.cli import flags
from graphsched.option import Option, declarations
from graphsched.schedule.options import PlacementOptions
from graphsched.serve.http_options import ServerOptions
from graphsched.serve.options import ServiceOptions
from graphsched.session.options import SessionOptions
from graphsched.session.switches import SWITCHES, field
from graphsched.text.chat_options import ChatOptions
from graphsched.text.grammar_options import GrammarOptions
from graphsched.text.options import SamplingOptions

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "options.md"
TOP: Final = """# Options

Every option is declared once (`graphsched.option`): the flags of the command line, the keywords of
`graphsched.load` and `graphsched.SamplingOptions`, and this page derive from it. A keyword takes a text as the command
line has it, or a value. Written by `tools/options_page.py`.
"""


def page() -> str:
    """The page as text."""
    switches = {field(name): option for name, option in SWITCHES.items()}
    parts = [
        TOP,
        _table(
            "A session",
            declarations(SessionOptions),
            f"Commands take a model, too: `{'`, `'.join(flags.MODEL.flags)}`.",
        ),
        _table("Where tensors live", declarations(PlacementOptions), ""),
        _table(
            "Switches", switches, "Each is on: attention as one op, fusions, improvements of the scheduler."
        ),
        _table("Sampling", declarations(SamplingOptions), "Keywords of `graphsched.SamplingOptions`."),
        _table(
            "Grammars", declarations(GrammarOptions), "Flags of `run`; the server's requests have fields."
        ),
        _table(
            "Chats",
            declarations(ChatOptions),
            "Flags of `run`, where a chat is `-i`, also called `-cnv`, and of `serve`.",
        ),
        _table(
            "The server's interface",
            declarations(ServerOptions),
            "Flags of `serve`, which has 4 slots by default.",
        ),
        _table("What the server keeps", declarations(ServiceOptions), "Flags of `serve`."),
    ]
    return "\n".join(parts)


def _table(title: str, options: Mapping[str, Option], text: str) -> str:
    head = [
        f"## {title}",
        "",
        *([text, ""] if text else []),
        "| keyword | flags | what | default |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *(_row(name, option) for name, option in options.items()), ""])


def _row(name: str, option: Option) -> str:
    names = ", ".join(f"`{flag}`" for flag in (*option.flags, *option.off))
    cells = [f"`{name}`", f"{names} {option.values.metavar}", option.help, option.default]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
