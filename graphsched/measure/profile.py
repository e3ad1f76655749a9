"""Profiles: a prompt and generation are run and traced, and their times summed up by op, result, layer and owner.

On the CPU times are measured inside the compiled program, on GPUs by events. With simulated devices they are read off
the virtual clock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from typing import Final

from graphsched.measure.readers import some_tokens
from graphsched.measure.sums import Sums, sum_up
from graphsched.predict.plan import Plan, make_plan
from graphsched.predict.session import prompt_plans
from graphsched.predict.sim_trace import planned_trace
from graphsched.run.device import Progress
from graphsched.run.spans import Span
from graphsched.run.trace import SPANS, THREADS, Event, Run, Trace
from graphsched.session.batching import Batching
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.session import Session
from graphsched.text.sampling import SamplingOptions
from graphsched.types.devices import HOST

EVENTS_AT_ONCE: Final = 60_000  # of generation: the trace is read before the ring of counter values is full
GREEDY: Final = SamplingOptions(temperature=0.0)


@dataclass(frozen=True)
class Request:
    """What is profiled: a prompt, and tokens generated behind it. which: prefill, decode or both."""

    n_prompt: int
    n_gen: int
    repeats: int
    which: str = "both"

    @property
    def has_prompt(self) -> bool:
        """Whether a prompt is measured."""
        return self.n_prompt > 0 and self.which != "decode"

    @property
    def has_generation(self) -> bool:
        """Whether generation is measured."""
        return self.n_gen > 0 and self.which != "prefill"

    def check_room(self, reading: Batching) -> None:
        """OptionError if prompt and generation do not fit the context."""
        n_prompt = self.n_prompt if self.has_prompt or self.has_generation else 0
        reading.check_room(n_prompt, self.n_gen if self.has_generation else 0)


@dataclass(frozen=True)
class Phase:
    """A prompt or generation: the sums of its repetitions, and the trace of the last one.

    tokens: of one repetition. wall: the spans of the last repetition in which time counts.
    """

    name: str
    tokens: int
    is_predicted: bool
    sums: Sums
    trace: Trace = field(repr=False)
    wall: tuple[Span, ...] = field(default=(), repr=False)


@dataclass
class Measurement:
    """A session that is measured one repetition at a time, so that two can alternate when they are compared."""

    session: Session
    request: Request
    prompts: list[tuple[Trace, list[Span]]] = field(default_factory=list)
    generations: list[tuple[Trace, list[Span]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session.recorder.level = THREADS
        self.at_once = 1  # tokens generated until the trace is read
        self.tokens = some_tokens(self.session, max(self.request.n_prompt, 1))[0]

    def warm_up(self) -> None:
        """Runs both phases once, so that plans are made and kernels compiled."""
        if self.request.has_prompt:
            self._prompt()
        if self.request.has_generation:
            trace, _ = self._generation(min(self.request.n_gen, 4))
            fit = EVENTS_AT_ONCE * len(trace.runs) // max(len(trace.events), 1)
            # the events of a GPU hold one run, and reading them takes time that is not the token's
            self.at_once = 1 if self.session.planner.devices else max(min(fit, SPANS // 8), 1)

    def repeat(self) -> None:
        """One repetition of both phases."""
        if self.request.has_prompt:
            self.prompts.append(self._prompt())
        if self.request.has_generation:
            self.generations.append(self._generation(self.request.n_gen))

    def _prompt(self) -> tuple[Trace, list[Span]]:
        self.session.reset()
        self.session.take_trace()
        begin = perf_counter_ns()
        self.session.eval(self.tokens)
        wall = (begin, perf_counter_ns())
        return self.session.take_trace(), [wall]

    def _generation(self, n: int) -> tuple[Trace, list[Span]]:
        """Generation behind the prompt; between pieces of it the clock stands still while the trace is read."""
        session, request = self.session, self.request
        session.rewind(request.n_prompt)
        if session.n_past < request.n_prompt:
            session.reset()
            session.eval(self.tokens)
        pieces: list[Trace] = []
        walls: list[Span] = []
        session.take_trace()
        read, begin = 0, perf_counter_ns()
        for done in generated(session, int(self.tokens[-1]), n):
            # The rings of spans and step times hold so many runs: they are read before they wrap.
            if done - read >= self.at_once:
                walls.append((begin, perf_counter_ns()))
                pieces.append(session.take_trace())
                read, begin = done, perf_counter_ns()
        walls.append((begin, perf_counter_ns()))
        pieces.append(session.take_trace())
        return concat_traces(pieces), walls

    def phases(self) -> list[Phase]:
        """The phases measured so far."""
        devices = (*self.session.planner.devices, HOST)
        found = []
        for name, n, repetitions in (
            (prompt_name(self.request.n_prompt), self.request.n_prompt, self.prompts),
            ("generation", self.request.n_gen, self.generations),
        ):
            if repetitions:
                last, wall = repetitions[-1]
                found.append(Phase(name, n, False, sum_up(repetitions, devices), last, tuple(wall)))
        return found


def generated(session: Session, token: int, n: int) -> Iterator[int]:
    """Generates n tokens behind one; how many there are by now. Without a tokenizer no text is made of them."""
    if session.model.has_text:
        for _ in session.generate([token], n_predict=n, sampling=GREEDY, stop_on_eog=False):
            yield session.timings.generated_tokens
        return
    for done in range(1, n + 1):
        logits = session.eval((token,))
        token = int(logits[-1].argmax())
        session.recorder.since("sampling")
        yield done


def concat_traces(pieces: Sequence[Trace]) -> Trace:
    """One trace of several, runs numbered through."""
    events: list[Event] = []
    runs: list[Run] = []
    for piece in pieces:
        first = len(runs)
        events += [replace(e, run=e.run + first) if e.run >= 0 and first else e for e in piece.events]
        runs += piece.runs
    return Trace(tuple(events), tuple(runs))


def prompt_name(n: int) -> str:
    """The name of the prompt's phase."""
    return f"prompt, {n} tokens" if n > 1 else "prompt"


def measure(
    sessions: Sequence[Session], request: Request, progress: Progress | None = None
) -> list[list[Phase]]:
    """Profiles of sessions, measured alternately repetition by repetition, so that drift hits all alike."""
    measurements = [Measurement(session, request) for session in sessions]
    for m in measurements:
        m.warm_up()
    for i in range(request.repeats):
        if progress:
            progress("measuring", i, request.repeats)
        for m in measurements:
            m.repeat()
    if progress:
        progress("measuring", request.repeats, request.repeats)
    return [m.phases() for m in measurements]


def predict(model: Model, options: SessionOptions, request: Request) -> list[Phase]:
    """Phases predicted by the virtual clock of the described machine: one prompt, and one token behind it."""
    phases: list[Phase] = []
    n_ctx = model.context(options)

    def add(name: str, tokens: int, plans: Sequence[Plan]) -> None:
        traces = [planned_trace(plan) for plan in plans]
        trace = behind(traces)
        wall = [(0, trace.runs[-1].end)]
        sums = sum_up([(trace, wall)], (*plans[0].planner.devices, HOST))
        phases.append(Phase(name, tokens, True, sums, trace, tuple(wall)))

    if request.has_prompt:
        n = request.n_prompt
        add(prompt_name(n), n, list(prompt_plans(model, options, n)))
    if request.has_generation:
        add("generation", 1, [make_plan(model, options, 1, 1, min(request.n_prompt + 1, n_ctx))])
    return phases


def behind(traces: Sequence[Trace]) -> Trace:
    """One trace of several that begin at 0, each shifted to the end of the one before it."""
    moved, at = [], 0
    for trace in traces:
        events = tuple(replace(e, begin=e.begin + at, end=e.end + at) for e in trace.events)
        runs = tuple(Run(r.schedule, r.lengths, r.begin + at, r.end + at) for r in trace.runs)
        moved.append(Trace(events, runs))
        at = runs[-1].end
    return concat_traces(moved)
