"""The options of sampling. Imports nothing slow, `--help` reads them."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from graphsched.errors import OptionError
from graphsched.option import Number, Options, Parsed, option, shown
from graphsched.text.sampling_values import (
    BREAKERS,
    CHANGING,
    KEEPING,
    OPTIONS,
    ORDER,
    Bias,
    parse_biases,
    parse_breakers,
    parse_letters,
    parse_order,
    typed,
)

_MOST: Final = 1e6  # more, times a count, is no number of 32 bits any more
_ANY: Final = "a number from -1e6 to 1e6"


@dataclass(frozen=True)
class SamplingOptions(Options):
    """How to choose a token; temperature 0 and below takes the likeliest. OptionError outside the valid ranges.

    seed: None is another one each time. samplers: by name, in their order; `sampling_seq` has a letter for
    each. Values that turn one off are llama.cpp's. Mirostat takes the place of all but the temperature.
    """

    temperature: float = option(
        "--temp",
        0.8,
        needed="a finite number, 0 and below being greedy",
        help="temperature, 0 takes the likeliest token",
    )
    top_k: int = option(
        "--top-k",
        40,
        low=0,
        needed="an integer from 0 (off) up",
        help="choose among so many likeliest tokens, 0 is off",
    )
    top_p: float = option(
        "--top-p",
        0.95,
        low=0,
        high=1,
        needed="a number from 0 to 1 (off)",
        help="choose among tokens that together have P",
    )
    min_p: float = option(
        "--min-p",
        0.05,
        low=0,
        high=1,
        needed="a number from 0 (off) to 1",
        help="choose among tokens with P of the likeliest's",
    )
    repeat_penalty: float = option(
        "--repeat-penalty",
        1.0,
        low=0.01,
        high=100,
        needed="a number from 0.01 to 100, 1 being off",
        help="against repetition, 1 is off",
    )
    repeat_last_n: int = option(
        "--repeat-last-n",
        64,
        low=-1,
        needed="an integer from 0 (off) up, or -1 for all tokens",
        help="tokens it looks at, -1 for all",
    )

    seed: int | None = option(
        "-s --seed",
        None,
        values=Number(int, 0, also={-1: None}, needed="an integer from -1 up", is_optional=True),
        help="seed of the choices",
        shown="-1, another each time",
    )
    presence_penalty: float = option(
        "--presence-penalty",
        0.0,
        low=-_MOST,
        high=_MOST,
        needed=_ANY,
        help="taken off tokens that came, 0 is off",
    )
    frequency_penalty: float = option(
        "--frequency-penalty",
        0.0,
        low=-_MOST,
        high=_MOST,
        needed=_ANY,
        help="the same for each time they came, 0 is off",
    )
    top_n_sigma: float = option(
        "--top-nsigma --top-n-sigma",
        -1.0,
        low=-1,
        needed="a number from 0 up, or -1 (off)",
        help="choose among logits so many standard deviations below the best, -1 is off",
    )
    typical_p: float = option(
        "--typical --typical-p",
        1.0,
        low=0,
        high=1,
        needed="a number from 0 to 1 (off)",
        help="choose among the most typical tokens that together have P, 1 is off",
    )
    xtc_probability: float = option(
        "--xtc-probability", 0.0, low=0, high=1, help="chance to leave out the likeliest tokens, 0 is off"
    )
    xtc_threshold: float = option(
        "--xtc-threshold", 0.1, low=0, high=1, help="with more they are likely; above 0.5 is off"
    )
    dry_multiplier: float = option(
        "--dry-multiplier", 0.0, low=0, high=1e6, help="DRY: against repeated sequences, 0 is off"
    )
    dry_base: float = option(
        "--dry-base", 1.75, low=0, high=1e6, help="it grows by this with each token, below 1 is off"
    )
    dry_allowed_length: int = option("--dry-allowed-length", 2, low=0, help="so many tokens may be repeated")
    dry_penalty_last_n: int = option(
        "--dry-penalty-last-n",
        -1,
        low=-1,
        needed="an integer from 0 (off) up, or -1 for all tokens",
        help="tokens that DRY looks at, -1 for all",
    )
    dry_sequence_breakers: Annotated[Any, tuple[str, ...]] = option(
        "--dry-sequence-breaker",
        BREAKERS,
        values=Parsed("TEXT", parse_breakers, " ".join),
        help="repeats do not reach over it, none for no such texts; repeatable",
        shown='line break, :, ", *',
        many="last",
    )
    mirostat: int = option(
        "--mirostat", 0, low=0, high=2, help="1 or 2: a constant surprise by Mirostat, 0 is off"
    )
    mirostat_eta: float = option("--mirostat-lr", 0.1, low=0, high=100, help="how fast Mirostat learns")
    mirostat_tau: float = option("--mirostat-ent", 5.0, low=0, high=100, help="the surprise in bits")
    dynatemp_range: float = option(
        "--dynatemp-range", 0.0, low=0, high=1e6, help="the temperature varies by so much, 0 is off"
    )
    dynatemp_exponent: float = option("--dynatemp-exp", 1.0, low=0, high=1e3, help="how it follows entropy")
    logit_bias: Annotated[Any, tuple[Bias, ...]] = option(
        "-l --logit-bias",
        (),
        values=Parsed("TOKEN+BIAS", parse_biases, typed),
        help="makes a token likelier, or less so (15043-1); repeatable",
        shown="",
        many="last",
    )
    samplers: Annotated[Any, tuple[str, ...]] = option(
        "--samplers",
        ORDER,
        values=Parsed("NAME;...", parse_order, ";".join),
        help="the samplers, in their order",
        shown="; ".join(ORDER),
    )
    sampling_seq: Annotated[Any, tuple[str, ...]] = option(
        "--sampling-seq --sampler-seq",
        (),
        values=Parsed("LETTERS", parse_letters, ";".join),
        help="the same by their letters",
        shown="edskypmxt",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling_seq and self.samplers != ORDER:
            raise OptionError("and --sampling-seq are both given, there is one order", "samplers")

    @property
    def order(self) -> tuple[str, ...]:
        """The samplers that were asked for, whether they do anything or not."""
        return ("temperature",) if self.mirostat else self.sampling_seq or self.samplers

    @property
    def active(self) -> tuple[str, ...]:
        """The samplers that do something, in their order."""
        found = tuple(name for name in self.order if self._is_on(name))
        if not self._is_cold or {"typ_p", "xtc"} & set(found):
            return found
        # The likeliest is taken in the end, and once no logits change all others keep that one.
        changed = max((i for i, name in enumerate(found) if name in CHANGING), default=-1)
        return tuple(name for i, name in enumerate(found) if i < changed or name not in KEEPING)

    def _is_on(self, name: str) -> bool:
        penalties = self.repeat_penalty - 1, self.frequency_penalty, self.presence_penalty
        return {
            "penalties": self.repeat_last_n != 0 and any(penalties),
            "dry": self.dry_multiplier > 0 and self.dry_base >= 1 and self.dry_penalty_last_n != 0,
            "top_n_sigma": self.top_n_sigma > 0,
            "top_k": self.top_k > 0,
            "typ_p": self.typical_p < 1,
            "top_p": self.top_p < 1,
            "min_p": self.min_p > 0,
            "xtc": self.xtc_probability > 0 and self.xtc_threshold <= 0.5,
        }.get(name, True)

    @property
    def _is_cold(self) -> bool:
        return self.temperature <= 0 and self.dynatemp_range <= 0 and "temperature" in self.order

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self._is_cold and "xtc" not in self.active

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of options that differ from their defaults and have no effect: their sampler is off, or left out."""
        given, plain = shown(self), shown(type(self)())
        idle = [name for sampler, names in OPTIONS.items() for name in self._idle(sampler, *names)]
        return tuple(name for name in idle if given[name] != plain[name])

    @property
    def outdone(self) -> tuple[str, ...]:
        """Names of options that differ from their defaults and change nothing, as the likeliest token is taken."""
        if not self.is_greedy:
            return ()
        given, plain, active = shown(self), shown(type(self)()), self.active
        idle = (name for name in self.order if self._is_on(name) and name not in active)
        names = ("seed", *(option for sampler in idle for options in OPTIONS[sampler] for option in options))
        return tuple(name for name in names if given[name] != plain[name])

    def _idle(self, sampler: str, main: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
        """Of the options that turn a sampler on, and the others about it, those without effect."""
        if sampler == "mirostat":
            return () if self.mirostat else others
        if sampler not in self.order:
            return (*main, *others)
        return () if self._is_on(sampler) else others
