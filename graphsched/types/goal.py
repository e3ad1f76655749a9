"""What a placement is to be fast at: requests of prompts and answers, of so many sequences at once."""

from dataclasses import dataclass, fields
from typing import Any, Final

from graphsched.errors import OptionError


@dataclass(frozen=True)
class Goal:
    """A request: pp tokens of a prompt, then tg tokens of an answer; slots: as many of them at once."""

    pp: int = 512
    tg: int = 256
    slots: int = 1

    def within(self, n_ctx: int) -> "Goal":
        """What of a goal with a name fits a context; one in numbers stays as it was said."""
        if self not in NAMED.values():
            return self
        tg = min(self.tg, n_ctx // 2)
        return Goal(min(self.pp, n_ctx - tg), tg, self.slots)

    def __str__(self) -> str:
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))


NAMED: Final = {"chat": Goal(), "prompt": Goal(4096, 64)}
_MOST: Final = 1 << 20


def read_goal(given: Any) -> Goal:
    """A goal by its name, or as typed: pp=512,tg=256,slots=4. OptionError for what is none."""
    if isinstance(given, Goal):
        return given
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]
    values = {"pp": 0, "tg": 0, "slots": 1}
    for pair in str(given).split(","):
        name, _, number = (word.strip() for word in pair.partition("="))
        if name not in values or not number.isdecimal() or int(number) > _MOST:
            needed = f"{', '.join(NAMED)} or numbers such as pp=512,tg=256,slots=1 are needed"
            raise OptionError(f"is {given!r}; {needed}")
        values[name] = int(number)
    if not values["pp"] + values["tg"] or not values["slots"]:
        raise OptionError(f"is {given!r}, with nothing to do")
    return Goal(**values)
