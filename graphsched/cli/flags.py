"""The one set of flags for all commands that run a model, made from the options' declarations."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from graphsched.cli.flag import add_all, alternatives, later
from graphsched.cli.values import MOST
from graphsched.errors import OptionError
from graphsched.option import Option, Options, Parsed, declarations, read
from graphsched.schedule.options import PlacementOptions
from graphsched.serve.http_options import ServerOptions
from graphsched.serve.options import ServiceOptions
from graphsched.session.options import SessionOptions, session_options
from graphsched.session.switches import SWITCHES, field
from graphsched.text.chat_options import ChatOptions
from graphsched.text.grammar_options import GrammarOptions
from graphsched.text.options import SamplingOptions
from graphsched.types.devices import gpu_number

Function = Callable[..., Any]
# Whether there is such a file is for the loader to say.
MODEL: Final = Option(("-m", "--model"), Parsed("FILE", Path), "GGUF file", "the embedded model")
OPTIONS: Final[Mapping[str, Option]] = {
    **declarations(SessionOptions),
    **declarations(PlacementOptions),
    **{field(name): option for name, option in SWITCHES.items()},
}
SESSION: Final[Mapping[str, Option]] = {"model": MODEL, **OPTIONS}
# What commands take that compute one sequence only.
ONE_SEQUENCE: Final = {name: option for name, option in SESSION.items() if name != "n_parallel"}
SAMPLING: Final = declarations(SamplingOptions)
CHAT: Final = declarations(ChatOptions)
GRAMMAR: Final = declarations(GrammarOptions)
SERVER: Final = declarations(ServerOptions)
SERVICE: Final = declarations(ServiceOptions)
# Slots of a server are sequences; there are several if nothing is said.
SLOTS: Final = replace(
    SESSION["n_parallel"],
    values=replace(SESSION["n_parallel"].values, also={-1: 4}),  # type: ignore[type-var]
    help="slots: requests computed at once, which share the context",
    default="4",
)


def session(command: Function) -> Function:
    """Adds the flags of a model and a sequence; the command receives `model: Path | None` and `options`."""
    return _with_session(command, ONE_SEQUENCE)


def sequences(command: Function) -> Function:
    """As `session`, with -np for several sequences."""
    return _with_session(command, SESSION)


def slots(command: Function) -> Function:
    """As `sequences`, with several slots if -np does not say how many."""
    return _with_session(command, {**SESSION, "n_parallel": SLOTS}, {"n_parallel": "4"})


def _with_session(
    command: Function, declared: Mapping[str, Option], defaults: Mapping[str, str] = MappingProxyType({})
) -> Function:
    """Adds declared flags; where nothing, or a word for it, is given, other defaults than those of a session count."""

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        given = {name: values.pop(name) for name in declared}
        for name, text in defaults.items():
            given[name] = read(name, declared[name], text if given[name] is None else given[name])
        model, options = _chosen(given)
        return command(model=model, options=options, **values)

    return add_all(declared.items(), with_options)


def grid(command: Function) -> Function:
    """Adds the flags of `sequences`, each with lists; the command receives `grid`: each (model, options).

    Combinations are in the order of the flags, the model changing last. OptionError if they are too many.
    """

    @functools.wraps(command)
    def with_grid(**values: Any) -> Any:
        lists = {name: alternatives(option, values.pop(name)) for name, option in SESSION.items()}
        if (count := math.prod(map(len, lists.values()))) > MOST:
            raise OptionError(f"the lists make {count} combinations, {MOST} are possible")
        chosen = (_chosen(dict(zip(lists, each, strict=True))) for each in itertools.product(*lists.values()))
        return command(grid=tuple(dict.fromkeys(chosen)), **values)

    return add_all(SESSION.items(), with_grid, lists=True)


def overriding(command: Function) -> Function:
    """Adds --override-kv alone, for commands without a session; the command receives `override_kv`."""
    name = "override_kv"

    @functools.wraps(command)
    def with_overrides(**values: Any) -> Any:
        return command(**values | {name: read(name, OPTIONS[name], values[name])})

    return add_all([(name, OPTIONS[name])], with_overrides)


def sampling(command: Function) -> Function:
    """Adds the flags of sampling; the command receives `sampling: SamplingOptions`."""
    return _with_set(command, "sampling", SamplingOptions)


def grammar(command: Function) -> Function:
    """Adds the flags of what a text is held to; the command receives `grammar: GrammarOptions`."""
    return _with_set(command, "grammar", GrammarOptions)


def chat(command: Function) -> Function:
    """Adds the flags of a chat's template; the command receives `chat: ChatOptions`."""
    return _with_set(command, "chat", ChatOptions)


def server(command: Function) -> Function:
    """Adds the flags of the interface over HTTP; the command receives `server: ServerOptions`."""
    return _with_set(command, "server", ServerOptions)


def service(command: Function) -> Function:
    """Adds the flags of what a server keeps; the command receives `service: ServiceOptions`."""
    return _with_set(command, "service", ServiceOptions)


def _with_set(command: Function, field: str, kind: type[Options]) -> Function:
    """Adds the flags of a set of options; the command receives the set under the name of `field`."""
    options = declarations(kind)

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        given = _given({name: values.pop(name) for name in options})
        return command(**{field: kind(**given)}, **values)

    return add_all(options.items(), with_options)


def further(given: Mapping[str, Any], behind: Mapping[str, Any]) -> SessionOptions:
    """The options of flags as a command reads them and of further ones behind them, which count where both are given.

    Further overrides are asked first, further policies last: both win. Other devices take the place of the first.
    """
    both = ((name, option) for name, option in SESSION.items() if name in given)
    return _chosen({name: later(option, given[name], behind[name]) for name, option in both})[1]


def _chosen(values: Mapping[str, Any]) -> tuple[Path | None, SessionOptions]:
    """The model and the options that the flags' texts make."""
    given = _given(values)
    model = given.pop("model", None)
    return None if model is None else Path(model), session_options(**given)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != ()}


def flag_of(name: str) -> str:
    """What a command line calls an option."""
    found = {**SERVICE, **SERVER, **CHAT, **GRAMMAR, **SAMPLING, **OPTIONS}.get(name)
    return found.flag if found else name


def asks_for_devices(options: SessionOptions) -> bool:
    """Whether flags are given that need a device to mean anything."""
    o, p = options, options.placement
    is_placed = p.n_gpu_layers > 0 or any(gpu_number(rule.device) is not None for rule in p.overrides)
    is_placed = is_placed or bool(
        p.tensor_split or p.n_cpu_moe or p.n_cpu_moe_first or p.cpu_moe or p.main_gpu
    )
    return is_placed or bool(o.offload_policy or o.offload_rule)
