"""Where a server's time went: the trace of its last seconds as a profile, which the page of `profile` shows."""

from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Final

from graphsched.measure.profile import Phase
from graphsched.measure.profile_data import Data, profile_data
from graphsched.measure.sums import sum_up
from graphsched.run.trace import RUN, Recorder, Trace
from graphsched.run.trace_read import read
from graphsched.session.session import Session
from graphsched.session.settings import described, model_described
from graphsched.types.devices import HOST
from graphsched.types.extents import N_TOKENS

MOST_RUNS: Final = 400  # that are read at once: the engine stands still meanwhile


@dataclass(frozen=True)
class ProfileData:
    """A phase, the last seconds, and its sums as plain data: arguments of `report.profile_page.html_page`."""

    phases: tuple[Phase, ...]
    data: Data


def last_trace(recorder: Recorder, seconds: float) -> tuple[Trace, tuple[int, int]]:
    """The trace of the last seconds, as far as the ring has it, and the span of time that it covers. Between runs."""
    now = perf_counter_ns()
    begin = now - round(seconds * 1e9)
    if len(recorder.spans) == recorder.spans.maxlen:  # what was before that is forgotten
        begin = max(begin, recorder.spans[0][1])
    runs = [span[1] for span in recorder.spans if span[0] == RUN]
    begin = max(begin, *runs[-MOST_RUNS : -MOST_RUNS + 1], begin)
    return read(span for span in recorder.spans if span[1] >= begin), (begin, now)


def profile_of(session: Session, trace: Trace, wall: tuple[int, int]) -> ProfileData:
    """The profile of a trace. Its tokens are all that were read, of prompts and of answers."""
    tokens = sum(run.lengths.get(N_TOKENS, 0) for run in trace.runs)
    devices = (*session.planner.devices, HOST)
    sums = sum_up([(trace, [wall])], devices)
    phase = Phase(f"the last {(wall[1] - wall[0]) / 1e9:.1f} s", tokens, False, sums, trace, (wall,))
    return ProfileData((phase,), profile_data((phase,), _about(session), {}))


def _about(session: Session) -> dict[str, Any]:
    return model_described(session.model) | described(session)
