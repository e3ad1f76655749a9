"""What a service has done so far: counters, the last requests, and how long a further one would wait."""

import math
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Final

from graphsched.serve.job import Job
from graphsched.serve.request import Reason, RequestTimings

_RECENT: Final = 256


@dataclass(frozen=True)
class RequestRecord:
    """A request that has ended. begin: nanoseconds of `perf_counter` when it was queued."""

    name: str
    slot: int
    begin: int
    timings: RequestTimings
    reason: Reason


@dataclass(frozen=True)
class Counters:
    """Sums since the service began. busy: the part of the time in which a step was being computed."""

    prompt_tokens: int
    cached_tokens: int
    prompt_seconds: float
    generated_tokens: int
    generate_seconds: float
    requests: int
    requests_running: int
    requests_waiting: int
    steps: int
    busy: float


class Load:
    """Sums that one thread writes."""

    def __init__(self) -> None:
        self.begin = perf_counter_ns()
        self.steps = self.requests = 0
        self.prompt_tokens = self.cached = self.generated_tokens = 0
        self.prompt_ns = self.generate_ns = self.busy_ns = 0
        self.recent: tuple[RequestRecord, ...] = ()  # never changed, as other threads read it

    now = staticmethod(perf_counter_ns)

    def finished(self, job: Job, reason: Reason) -> None:
        """Counts a request whose last answer has ended for a reason."""
        last = job.timings()
        self.requests += 1
        self.generate_ns += round(last.generate_ms * 1e6)
        n = sum(len(answer.tokens) for answer in job.answers)
        sampling = sum(answer.sampling_ns for answer in job.answers) / 1e6
        timings = replace(last, generated_tokens=n, sampling_ms=sampling)
        record = RequestRecord(job.request.name, job.slot, job.queued, timings, reason)
        self.recent = (*self.recent[-_RECENT + 1 :], record)

    def counters(self, running: int, waiting: int) -> Counters:
        """The sums as they are now."""
        return Counters(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached,
            prompt_seconds=self.prompt_ns / 1e9,
            generated_tokens=self.generated_tokens,
            generate_seconds=self.generate_ns / 1e9,
            requests=self.requests,
            requests_running=running,
            requests_waiting=waiting,
            steps=self.steps,
            busy=self.busy_ns / max(self.now() - self.begin, 1),
        )

    def retry_after(self, waiting: int, n_slots: int) -> int:
        """Seconds in which about half of the queue gets a slot, by the last requests: 1 to 600."""
        times = [r.timings.prompt_ms + r.timings.generate_ms for r in self.recent]
        each = sum(times) / len(times) / 1e3 if times else 1.0
        return min(max(math.ceil(each * max(waiting, 1) / (2 * n_slots)), 1), 600)
