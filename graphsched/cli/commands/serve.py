"""`graphsched serve`: a server with the interfaces of OpenAI, Anthropic and llama.cpp."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli import flags
from graphsched.cli.interrupts import Interrupts
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.opening import open_session
from graphsched.cli.screen import Screen
from graphsched.cli.values import Number
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.serve.http_options import ServerOptions
    from graphsched.serve.options import ServiceOptions
    from graphsched.session.options import SessionOptions
    from graphsched.text.chat_options import ChatOptions
    from graphsched.text.options import SamplingOptions


@click.command(cls=ModelCommand, epilog="Example: graphsched serve -m model.gguf -np 4 -c 16384 --port 8080")
@click.option(
    "-n",
    "--predict",
    "--n-predict",
    "n_predict",
    type=Number(int, 0, "-1 and -2 (no limit)"),
    default=-1,
    help="tokens of an answer, where a request does not say (default: -1, no limit)",
)
@click.option("--ignore-eos", is_flag=True, help="go on behind the model's end token")
@flags.server
@flags.service
@flags.chat
@flags.slots
@flags.sampling
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options, and log requests")
@click.option("-q", "--quiet", is_flag=True, help="no hints, progress and errors of requests")
@click.option("--no-progress", is_flag=True, help="do not show what takes long")
def command(model: Path | None, options: "SessionOptions", **values: Any) -> None:
    """Serve a model over HTTP.

    Flags of sampling are what requests get that do not say. The server listens on loopback only, if --host does not say
    more. SIGTERM and Ctrl-C let running requests end, a second one ends at once.
    """
    check_installed()
    from graphsched.cli.server import bound, serve

    screen = Screen(quiet=values["quiet"], verbose=values["verbose"], progress=not values["no_progress"])
    asked = asked_of(**values)
    _ = asked.server.keys  # a file that cannot be read is found before the model is loaded
    with closing(bound(asked.server)) as listening:
        with Interrupts() as interrupts:
            session = open_session(model, options, screen, interrupts, needs_text=True)
        serve(session, asked, listening, screen)


def asked_of(
    *,
    server: "ServerOptions",
    service: "ServiceOptions",
    chat: "ChatOptions",
    sampling: "SamplingOptions",
    n_predict: int,
    ignore_eos: bool,
    **others: Any,
) -> Any:
    """What is asked for besides the session's options."""
    from graphsched.cli.server import Asked
    from graphsched.serve.api.served import Defaults

    return Asked(server, service, Defaults(sampling, chat, n_predict, ignore_eos))


def check_installed() -> None:
    """OptionError if what the server is made with is not there."""
    for name in ("starlette", "uvicorn", "llguidance"):
        try:
            __import__(name)
        except ImportError:
            what = f"the server needs {name}, pip install 'graphsched[server]' brings it"
            raise OptionError(what) from None
