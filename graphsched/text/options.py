"""How to choose a token: the options of sampling. Imports nothing slow, `--help` reads them."""

from dataclasses import dataclass

from graphsched.option import Number, Options, option


@dataclass(frozen=True)
class SamplingOptions(Options):
    """How to choose a token; temperature 0 and below takes the likeliest. OptionError outside the valid ranges.

    seed: None is another one each time.
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
