"""Profiles of one or several sets of options, for the command that shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphsched.cli.hints import check_session
from graphsched.cli.interrupts import Interrupts
from graphsched.cli.opening import hint_at_unused, open_session
from graphsched.cli.screen import Screen
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.measure.profile import Phase, Request
    from graphsched.measure.profile_data import Data
    from graphsched.session.options import SessionOptions


@dataclass(frozen=True)
class Profiled:
    """A profile: its phases, unless it was saved, and its data."""

    phases: "list[Phase]"
    data: "Data"


def profiled(
    model: Path | None, options: "Sequence[SessionOptions]", request: "Request", refresh: bool = False
) -> list[Profiled]:
    """Profiles of each set of options: predicted if it describes a machine, else measured in turn."""
    from graphsched.measure.peaks import peaks
    from graphsched.measure.profile_data import profile_data
    from graphsched.session.planner import described_machine

    kinds = {described_machine(o) is not None for o in options}
    if len(kinds) > 1:
        raise OptionError(
            "a prediction and a measurement are not compared, --vs needs --device on both sides"
        )
    run = predicted if kinds == {True} else measured
    profiles = run(model, options, request)
    return [
        Profiled(phases, profile_data(phases, about, peaks(o, refresh)))
        for o, (phases, about) in zip(options, profiles, strict=True)
    ]


Found = list[tuple["list[Phase]", dict[str, Any]]]


def measured(model: Path | None, options: "Sequence[SessionOptions]", request: "Request") -> Found:
    """Measured phases per set of options, each with the description of model, machine and options."""
    from graphsched.measure.profile import measure
    from graphsched.session.model import open_default_or
    from graphsched.session.settings import described, model_described

    screen = Screen()
    with Interrupts() as interrupts:
        models = {o.override_kv: open_default_or(model, o.override_kv) for o in options}
        for o in options:
            request.check_room(models[o.override_kv].batching(o))
        sessions = [open_session(models[o.override_kv], o, screen, interrupts) for o in options]
        phases = measure(sessions, request, screen.progress)
    return [
        (phase_list, model_described(session.model) | described(session))
        for phase_list, session in zip(phases, sessions, strict=True)
    ]


def predicted(model: Path | None, options: "Sequence[SessionOptions]", request: "Request") -> Found:
    """Predicted phases per set of options, each with the description of model and options."""
    from graphsched.measure.profile import predict
    from graphsched.session.model import open_default_or
    from graphsched.session.settings import model_described, settings

    screen = Screen()
    models = {o.override_kv: open_default_or(model, o.override_kv, header_only=True) for o in options}
    for o in options:
        request.check_room(models[o.override_kv].batching(o))
        check_session(models[o.override_kv], o, screen)
        hint_at_unused(models[o.override_kv], o, screen)
    return [
        (predict(models[o.override_kv], o, request), model_described(models[o.override_kv]) | settings(o))
        for o in options
    ]
