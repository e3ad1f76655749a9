"""Chooses where a model should live: solves for its parts, then judges what was found beside what others would do."""

from dataclasses import dataclass, replace
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.fit.flags import typed
from graphsched.fit.judge import Judged, best, judged, overflows
from graphsched.fit.search import Search
from graphsched.schedule.policy import AUTO, OffloadPolicy
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.planner import described_machine

_LARGEST_UBATCH: Final = 4096


@dataclass(frozen=True)
class Fit:
    """What was chosen, and all that was judged."""

    chosen: Judged
    judged: tuple[Judged, ...]

    @property
    def options(self) -> SessionOptions:
        """The options of a session that lives so."""
        return self.chosen.options

    @property
    def flags(self) -> str:
        """The flags that ask for it."""
        policy, n_ubatch = str(self.options.policy), self.options.n_ubatch
        found = [typed(self.options.placement)]
        found += [f"-ub {n_ubatch}"] if n_ubatch != SessionOptions.n_ubatch else []
        found += [f"-op {policy}"] if policy else []
        return " ".join(filter(None, found))

    def as_json(self) -> dict[str, Any]:
        """The choice, its flags, and what it was chosen from."""
        return {
            "chosen": self.chosen.name,
            "flags": self.flags,
            "goal": str(self.chosen.goal),
            "candidates": [one.as_json() for one in self.judged],
        }


def fit(model: Model, options: SessionOptions) -> Fit:
    """Where a model should live to be fast at what `fit_for` says, in the memory of the host and the devices.

    What a user has asked for (-ot, -ngl, -ts, -ncmoe, -cmoe, -op) stays. OptionError where nothing is known of the
    devices' speed, where the goal does not fit the context, and where no placement fits the memory.
    """
    if described_machine(options) is None:
        raise OptionError("needs a described machine, as of --device sim:NAME", "fit")
    asked = replace(options, fit=False)
    found = [] if overflows(model, asked) else [judged("as asked for", model, asked)]
    for n_ubatch in _micro_batches(asked):
        free = replace(asked, offload_policy=_policy(asked), n_ubatch=n_ubatch)
        found += Search(model, free).candidates()
    chosen = best(found)
    if not chosen.fits:
        raise OptionError(f"finds no placement that fits: {chosen.lacks}", "fit")
    return Fit(chosen, tuple(found))


def _policy(options: SessionOptions) -> Any:
    """The offload policy: by cost, unless somebody has said more than which ops are off."""
    given = options.offload_policy
    has_rule = options.offload_rule or options.offload_min_batch != SessionOptions.offload_min_batch
    return given if has_rule or not isinstance(given, frozenset) else OffloadPolicy(given, AUTO)


def _micro_batches(options: SessionOptions) -> tuple[int, ...]:
    """Those that are tried: for longer prompts one that uploads weights less often, if nobody has said."""
    goal, given = options.fit_for, options.n_ubatch
    larger = min(_LARGEST_UBATCH, options.n_batch, goal.pp)
    return (given, larger) if given == SessionOptions.n_ubatch and larger > given else (given,)
