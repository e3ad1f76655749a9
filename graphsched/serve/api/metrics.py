"""`/metrics`: counters in the text format of Prometheus, by llama.cpp's names behind `graphsched:`."""

from collections.abc import Iterator
from typing import Final

from starlette.responses import Response

from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import llama_form
from graphsched.serve.api.slots import unsupported
from graphsched.serve.load import Counters

TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(call: Call) -> Response:
    """All metrics."""
    if not call.served.options.metrics:
        raise unsupported("metrics are not shown, --metrics does")
    service = call.served.service
    busy = sum(slot.is_processing for slot in service.slots())
    return Response("".join(_lines(service.counters(), busy, service.n_slots)), media_type=TYPE)


def _lines(c: Counters, busy: int, n_slots: int) -> Iterator[str]:
    for name, kind, help, value in (
        ("prompt_tokens_total", "counter", "Tokens of prompts that were read.", c.prompt_tokens),
        ("cached_tokens_total", "counter", "Tokens of prompts that need not be read again.", c.cached_tokens),
        ("prompt_seconds_total", "counter", "Seconds of reading prompts.", c.prompt_seconds),
        ("tokens_predicted_total", "counter", "Tokens that were generated.", c.generated_tokens),
        ("tokens_predicted_seconds_total", "counter", "Seconds of generating.", c.generate_seconds),
        (
            "prompt_tokens_seconds",
            "gauge",
            "Tokens of prompts per second.",
            _rate(c.prompt_tokens, c.prompt_seconds),
        ),
        (
            "predicted_tokens_seconds",
            "gauge",
            "Generated tokens per second.",
            _rate(c.generated_tokens, c.generate_seconds),
        ),
        ("requests_total", "counter", "Requests that have ended.", c.requests),
        ("requests_processing", "gauge", "Requests that have a slot.", c.requests_running),
        ("requests_deferred", "gauge", "Requests that wait for a slot.", c.requests_waiting),
        ("n_decode_total", "counter", "Steps of the engine.", c.steps),
        ("busy_ratio", "gauge", "Part of the time in which the engine computes.", c.busy),
        ("slots", "gauge", "Slots.", n_slots),
        ("slots_processing", "gauge", "Slots that have a request.", busy),
    ):
        yield f"# HELP graphsched:{name} {help}\n# TYPE graphsched:{name} {kind}\n"
        yield f"graphsched:{name} {value}\n"


def _rate(n: int, seconds: float) -> float:
    return n / seconds if seconds > 0 else 0.0


ENDPOINTS: Final = (Endpoint("GET", ("/metrics",), metrics, "Counters for Prometheus", form=llama_form),)
