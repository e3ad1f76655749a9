"""The worker pool: persistent threads inside one nogil function, with a spin barrier that parks when idle.

Pool words (int64, a cache line apart where threads write them): GEN counts programs started, ARRIVED and PHASE
make the barrier, PARKED counts workers asleep on GEN, SLEEPING threads asleep on PHASE.
"""

import ctypes
import os
import threading

import numpy as np

from graphsched.backends.cpu.language.atomics import (
    FUTEX,
    FUTEX_WAIT_PRIVATE,
    FUTEX_WAKE_PRIVATE,
    call_kernel,
    cycles,
    fetch_add,
    load_word,
    pause,
    sched_yield,
    store_word,
    system_call,
    write_word,
)
from graphsched.backends.cpu.language.jit import entry, helper
from graphsched.backends.cpu.language.simd import word
from graphsched.backends.cpu.program.layout import (
    ABORT,
    BARRIER_AFTER,
    STAMP,
    STEP_BYTES,
    STEP_CLAIM_STRIDE,
    STEP_CLAIMS,
    STEP_FLAGS,
    STEP_NUMBER,
    TRACE,
    TRACE_ALL,
    TRACE_STRIDE,
    TRACE_WORDS,
)
from graphsched.run.affinity import Pins, usable_cpus

GEN, ARRIVED, PHASE, PARKED, STOP = (64 * i for i in range(5))
PROGRAM, N_STEPS, RUN, N_THREADS = (320 + 8 * i for i in range(4))
SLEEPING = 384
POOL_BYTES = 448
# About 100 µs of `pause`: longer than the gap between two tokens, shorter than anyone's patience with a busy core.
SPINS_BEFORE_PARK = 4000
# A barrier that long means that a worker lost its core: asleep, a thread leaves it another one to go on.
SPINS_BEFORE_SLEEP = 2000


@helper
def barrier(pool: int, nth: int) -> None:
    """Waits until all nth threads of a program are here."""
    phase = load_word(pool + PHASE)
    if fetch_add(pool + ARRIVED, 1) == nth - 1:
        store_word(pool + ARRIVED, 0)
        store_word(pool + PHASE, phase + 1)
        if load_word(pool + SLEEPING) and FUTEX:
            system_call((FUTEX, pool + PHASE, FUTEX_WAKE_PRIVATE, 1 << 30, 0, 0, 0))
        return
    spins = 0
    while load_word(pool + PHASE) == phase:
        pause()
        spins += 1
        if spins > SPINS_BEFORE_SLEEP:
            sleep_while(pool + PHASE, phase, pool + SLEEPING)


@helper
def sleep_while(word_at: int, value: int, sleepers: int) -> None:
    """Sleeps, if the word still holds the value, until someone wakes it; without futexes gives way once."""
    if FUTEX:
        fetch_add(sleepers, 1)
        system_call((FUTEX, word_at, FUTEX_WAIT_PRIVATE, value, 0, 0, 0))
        fetch_add(sleepers, -1)
    else:
        sched_yield(())


@helper
def execute(program: int, n_steps: int, run: int, ith: int, nth: int, pool: int) -> None:
    """Runs this thread's share of every step. After an abort steps are skipped but barriers are kept.

    A traced step begins where the one before it was released: one or two reads of the counter per step that is stamped.
    """
    trace = trace_of(run, ith)
    is_exact = word(run, TRACE_ALL) != 0
    begun = cycles() if trace else 0
    step = program
    for _ in range(n_steps):
        if load_word(run + 8 * ABORT) == 0:
            call_kernel(word(step, 0), step, run, ith, nth)
        flags = word(step, STEP_FLAGS)
        is_stamped = trace != 0 and (is_exact or flags & STAMP != 0)
        done = cycles() if is_stamped else 0
        released = done
        if nth > 1 and flags & BARRIER_AFTER:
            barrier(pool, nth)
            if is_stamped:
                released = cycles()
        if is_stamped:
            record(trace + word(step, STEP_NUMBER) * 8 * TRACE_WORDS, begun, done, released)
            begun = released
        step += word(step, STEP_BYTES)
    clear_claims(program, n_steps, ith)
    if nth > 1:
        barrier(pool, nth)  # whoever began the run may free its program as soon as it returns


@helper
def clear_claims(program: int, n_steps: int, ith: int) -> None:
    """Clears this thread's counters of claims for the next run."""
    counters = word(program, STEP_CLAIMS) + ith * word(program, STEP_CLAIM_STRIDE)
    for i in range(n_steps):
        write_word(counters + 8 * i, 0)


@helper
def trace_of(run: int, ith: int) -> int:
    """Where thread ith writes times; 0: nowhere."""
    base, stride = word(run, TRACE), word(run, TRACE_STRIDE)
    if base == 0 or (ith > 0 and stride == 0):
        return 0
    return base + ith * stride


@helper
def record(at: int, begun: int, done: int, released: int) -> None:
    """Writes the times of a step: begun, done, and released by its barrier."""
    write_word(at, begun)
    write_word(at + 8, done)
    write_word(at + 16, released)


@entry
def read_cycles() -> int:
    """The cycle counter."""
    return cycles()


@entry
def worker(pool: int, ith: int, seen: int) -> None:
    """Thread ith's life; `seen` is the generation at which it was born."""
    while True:
        spins = 0
        while load_word(pool + GEN) == seen:
            pause()
            spins += 1
            if spins > SPINS_BEFORE_PARK:
                sleep_while(pool + GEN, seen, pool + PARKED)
        seen = load_word(pool + GEN)
        if load_word(pool + STOP):
            return
        if ith < word(pool + N_THREADS, 0):
            execute(
                word(pool + PROGRAM, 0),
                word(pool + N_STEPS, 0),
                word(pool + RUN, 0),
                ith,
                word(pool + N_THREADS, 0),
                pool,
            )


@entry
def start(pool: int, program: int, n_steps: int, run: int, nth: int) -> None:
    """Runs a program on nth threads; the caller is thread 0."""
    if nth > 1:
        store_word(pool + PROGRAM, program)
        store_word(pool + N_STEPS, n_steps)
        store_word(pool + RUN, run)
        store_word(pool + N_THREADS, nth)
        publish(pool)
    execute(program, n_steps, run, 0, nth, pool)


@entry
def run_alone(program: int, n_steps: int, run: int) -> None:
    """Runs a program on this thread only."""
    execute(program, n_steps, run, 0, 1, 0)


@helper
def publish(pool: int) -> None:
    """A new generation: workers that spin see it, workers that sleep are woken."""
    store_word(pool + GEN, load_word(pool + GEN) + 1)
    if load_word(pool + PARKED) and FUTEX:
        system_call((FUTEX, pool + GEN, FUTEX_WAKE_PRIVATE, 1 << 30, 0, 0, 0))


@entry
def stop(pool: int) -> None:
    """Ends the workers."""
    store_word(pool + STOP, 1)
    publish(pool)


class Pool:
    """Threads 1..n-1 of the process; the thread that calls `run` is thread 0. One program at a time.

    pins: the CPUs of each thread from the next run on; () for those that the process had at first.
    """

    def __init__(self) -> None:
        self.pins: Pins = ()
        self._pinned: Pins = ()
        self._free = usable_cpus()
        self._words = np.zeros(POOL_BYTES + 64, np.uint8)
        self._base = -(-self._words.ctypes.data // 64) * 64
        self._threads: list[threading.Thread] = []
        self._busy = threading.Lock()

    def run(self, program: int, n_steps: int, run: int, n_threads: int) -> None:
        """Runs n_steps records at `program` on n_threads, this thread among them, and waits for the end."""
        with self._busy:
            while len(self._threads) < n_threads - 1:
                self._spawn(len(self._threads) + 1)
            if self._pinned is not self.pins:
                self._pin()
            start(self._base, program, n_steps, run, n_threads)

    def _spawn(self, ith: int) -> None:
        born = ctypes.c_int64.from_address(self._base + GEN).value
        thread = threading.Thread(
            target=worker, args=(self._base, ith, born), name=f"graphsched-{ith}", daemon=True
        )
        thread.start()
        self._threads.append(thread)
        self._pinned = ()  # it has the CPUs of this thread, the first one

    def _pin(self) -> None:
        for i, thread in enumerate((0, *(t.native_id or 0 for t in self._threads))):
            os.sched_setaffinity(thread, self.pins[i] if i < len(self.pins) else self._free)
        self._pinned = self.pins

    def close(self) -> None:
        """Ends the workers and waits for them."""
        stop(self._base)
        for thread in self._threads:
            thread.join()


POOL = Pool()
