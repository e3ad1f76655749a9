"""A short load: every finished answer is the one that its prompt has alone, and no slot stays in use."""

import asyncio
import os

import pytest
from http_servers import serving_http
from load_clients import Work
from serve_load import Report, memory, percentiles, report


def loaded(work: Work) -> Report:
    with serving_http(n_ctx=2048, deterministic=True, n_parallel=4) as server:
        return asyncio.run(report(server.url, work, check=True))


def checked(found: Report) -> None:
    assert found.errors == ()
    assert (found.wrong, found.leaked) == (0, 0)
    assert found.finished + found.hung_up == found.requests
    assert found.tokens_per_second > 0


def test_a_moment_of_load() -> None:
    found = loaded(Work(8, 1.0, (4, 40), (2, 12), 0.33, n_prompts=6))
    checked(found)
    assert found.requests >= 8


@pytest.mark.slow
def test_ten_seconds_of_load() -> None:
    found = loaded(Work(16, 10.0, (4, 200), (4, 48), 0.33, n_prompts=16))
    checked(found)
    assert found.hung_up > 0


def test_figures() -> None:
    assert percentiles([float(n) for n in range(101)]) == (50, 95)
    assert percentiles([]) == (0, 0)
    assert memory(os.getpid()) > 0 or not os.path.exists("/proc/self/status")
