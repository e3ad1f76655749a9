"""--fit on a command line: options that place a model anew, before it is opened."""

from dataclasses import replace
from typing import TYPE_CHECKING

from graphsched.cli.screen import Screen

if TYPE_CHECKING:
    from graphsched.fit.fit import Fit
    from graphsched.session.model import Model
    from graphsched.session.options import SessionOptions


def with_fit(
    model: "Model", options: "SessionOptions", screen: Screen
) -> tuple["SessionOptions", "Fit | None"]:
    """The options with the placement that --fit finds. A hint where there is nothing to choose, or nothing is known."""
    if not options.fit:
        return options, None
    from graphsched.fit.fit import fit  # not above: it imports the compiler
    from graphsched.session.planner import described_machine

    plain = replace(options, fit=False)
    if not options.devices:
        screen.hint("hint: without effect: --fit, as there is no device to place anything on")
        return plain, None
    if described_machine(options) is None:
        names = ", ".join(options.devices)
        screen.hint(f"hint: without effect: --fit, as nobody has described how fast {names} is")
        return plain, None
    found = fit(model, options)
    return found.options, found
