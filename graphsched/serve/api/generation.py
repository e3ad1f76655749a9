"""The fields that every request for text may have, whatever its interface, and the request that they make."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, cast

from graphsched.serve.api.failures import Failure, refused, too_long
from graphsched.serve.api.fields import Field
from graphsched.serve.api.grammars import structure_rules
from graphsched.serve.api.kinds import Either, Flag, ListOf, Text, integer
from graphsched.serve.api.sampling import SAMPLING, sampling_of
from graphsched.serve.api.served import Served
from graphsched.serve.api.structure import GRAMMARS, structure_of
from graphsched.serve.request import Event, Request
from graphsched.text.constrained import Rules

MAX_STOPS: Final = 64
MAX_STOP: Final = 1024  # characters
MAX_ANSWERS: Final = 64
MAX_PROBS: Final = 100
_STOP: Final = Text(MAX_STOP)
LIMIT: Final = integer(-1, 1 << 31)
GENERATION: Final = (
    *SAMPLING,
    Field("stop", Either((_STOP, ListOf(_STOP, MAX_STOPS))), help="texts that end an answer"),
    Field("n_predict", LIMIT, help="tokens of an answer, -1 for any number"),
    Field("max_tokens", LIMIT, "n_predict", help="the same"),
    *GRAMMARS,
    Field("stream", Flag(), help="send the answer as it comes, as server-sent events"),
    Field("ignore_eos", Flag(), help="go on behind the model's end token"),
    Field("id_slot", integer(-1, 1023), help="the slot to use, -1 for any"),
    Field("cache_prompt", Flag(), help="use again what was read before"),
    Field("timings_per_token", Flag(), help="timings in each part of a stream"),
)


def request_of(
    values: Mapping[str, Any],
    served: Served,
    prompt: tuple[int, ...],
    rules: Rules | None = None,
    **more: Any,
) -> Request:
    """The request of a prompt, with what its fields say. Failure for a prompt that does not fit, and bad options.

    rules: what the answer follows; if there are none what the fields hold it to, from the beginning.
    """
    service, defaults = served.service, served.defaults
    if not prompt:
        raise Failure(400, "the prompt is empty and this model has no token that begins a text")
    if len(prompt) > service.n_ctx:
        raise too_long(len(prompt), service.n_ctx)
    slot = values.get("id_slot", -1)
    if slot >= service.n_slots:
        raise refused("id_slot", f"is {slot}, there are slots 0 to {service.n_slots - 1}")
    return Request(
        prompt,
        n_predict=values.get("n_predict", defaults.n_predict),
        sampling=sampling_of(values, defaults.sampling, service.tokenizer),
        stop=stops(values),
        ignore_eos=values.get("ignore_eos", defaults.ignore_eos),
        slot=None if slot < 0 else slot,
        keeps=values.get("cache_prompt", True),
        rules=_structured(values) if rules is None else rules,
        **more,
    )


def _structured(values: Mapping[str, Any]) -> Rules | None:
    structure = structure_of(values)
    return None if structure is None else structure_rules(structure)


def stops(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts that end an answer; empty ones are none."""
    given = values.get("stop", ())
    return tuple(text for text in ((given,) if isinstance(given, str) else given) if text)


def events(served: Served, request: Request) -> AsyncGenerator[Event, None]:
    """The events of a request."""
    return cast(AsyncGenerator[Event, None], served.service.answers(request))
