"""What is served: the service, the model's names and its dialect, and what requests need not say."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphsched.serve.api.auth import Guard, guard
from graphsched.serve.api.kept_responses import Kept
from graphsched.serve.http_options import ServerOptions
from graphsched.text.chat_options import ChatOptions
from graphsched.text.dialect import Dialect, dialect_of
from graphsched.text.options import SamplingOptions

if TYPE_CHECKING:
    from graphsched.serve.service import Service


@dataclass
class Life:
    """Whether the server still takes requests."""

    is_draining: bool = False


@dataclass(frozen=True)
class Defaults:
    """What a request is held to where it says nothing; n_predict: tokens of an answer, -1 for any number."""

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    chat: ChatOptions = field(default_factory=ChatOptions)
    n_predict: int = -1
    ignore_eos: bool = False


@dataclass(frozen=True)
class Served:
    """A service and all that endpoints have to know besides."""

    service: "Service"
    options: ServerOptions
    defaults: Defaults
    dialect: Dialect
    names: tuple[str, ...]
    guard: Guard
    life: Life = field(default_factory=Life)
    responses: Kept = field(default_factory=Kept)
    began: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """The model's first name."""
        return self.names[0]

    @staticmethod
    def now() -> int:
        """Seconds since 1970."""
        return int(time.time())


def served(service: "Service", options: ServerOptions, defaults: Defaults) -> Served:
    """What is served with these options. OptionError for keys that cannot be read, Error for a refusing template."""
    tokenizer, chat = service.tokenizer, defaults.chat
    given = tokenizer.chat_template if chat.given_template is None else chat.given_template
    dialect = dialect_of(given, tokenizer, more=chat.all_values)
    names = options.alias or (service.model.source.removesuffix(".gguf"),)
    return Served(service, options, defaults, dialect, names, guard(options.keys, options.host, options.cors))
