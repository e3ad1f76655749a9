"""Kernels that a program needs and nobody has compiled yet, compiled by several processes at once.

Numba compiles one after the other in a process. Other processes put what they compile into the cache on disk, from
where this one loads it; whatever goes wrong there, it is compiled here.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from threading import Thread

from graphsched import disk_cache, env
from graphsched.backends.cpu.language.jit import Kernel
from graphsched.run.limits import usable_cores

Progress = Callable[[int, int], None]  # (kernels done, of how many)
MOST = 8  # processes, unless GRAPHSCHED_COMPILE_JOBS asks for more: each takes 200 MB
PER_PROCESS = 4  # kernels: fewer are compiled here before another process has imported Numba


def compile_all(kernels: Sequence[Kernel], progress: Progress, backend: str) -> None:
    """Compiles kernels, some of them in other processes; `progress` hears how many are there.

    backend: the module by which another process imports all types and kernels.
    """
    todo, total, done = deque(kernels), len(kernels), 0
    others = []
    with ExitStack() as stack:
        with suppress(OSError):  # processes that cannot be started are done without
            others += [
                stack.enter_context(_other_process(todo, backend)) for _ in range(_other_processes(total))
            ]
        while todo:
            progress(done, total)
            _ = todo.popleft().address
            done = total - len(todo)
        for other in others:
            other.join()
    for kernel in kernels:
        _ = kernel.address
    progress(total, total)


def _other_processes(kernels: int) -> int:
    """How many processes besides this one are worth their start."""
    jobs = env.compile_jobs() or min(usable_cores(), MOST)
    return max(min(jobs, kernels // PER_PROCESS) - 1, 0)


@contextmanager
def _other_process(todo: deque[Kernel], backend: str) -> Iterator[Thread]:
    """A process that compiles what is to do, and the thread that gives it one kernel after the other."""
    command = [sys.executable, "-m", __name__, backend]
    environment = os.environ | {"GRAPHSCHED_CACHE_DIR": str(disk_cache.folder())}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, text=True
    ) as process:
        feeder = Thread(target=_feed, args=(process, todo), daemon=True)
        feeder.start()
        try:
            yield feeder
        finally:
            process.kill()
            feeder.join()


def _feed(process: "subprocess.Popen[str]", todo: deque[Kernel]) -> None:
    """Hands out kernels from the end of the list until none is left, or the process has gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(IndexError, OSError, ValueError):  # nothing left, and pipes that are closed
        while process.stdout.readline():  # it has started, or is done with one
            recipe = None
            while recipe is None:
                recipe = todo.pop().recipe
            print(json.dumps(recipe), file=process.stdin, flush=True)


def serve() -> None:
    """Compiles the kernels whose recipes come in, a line each, and says so after each; what fails fails elsewhere."""
    print("ready", flush=True)
    for line in sys.stdin:
        module, family, params = json.loads(line)
        with suppress(Exception):
            _ = getattr(import_module(module), family)(*params).compiled
        print("done", flush=True)


if __name__ == "__main__":
    import_module(sys.argv[1])
    serve()
