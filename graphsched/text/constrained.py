"""A chooser that follows a grammar: from the beginning, behind thoughts, or from a text on that calls for it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graphsched.text.answers import CHANNEL_OF_ANSWERS, Marks
from graphsched.text.grammar import Grammar
from graphsched.text.thinking import Budget, Chooser, Thinking
from graphsched.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rules:
    """A grammar and where it begins.

    behind: the text behind which it begins, as the end of thoughts that the prompt has opened; empty: at once. opening,
    closing: the marks of thoughts that an answer may have in front of it. lazy_from: the text with which it begins, as
    that of a tool call; until it comes anything may be written.
    """

    grammar: Grammar
    behind: str = ""
    opening: str = ""
    closing: str = ""
    lazy_from: str = ""

    def behind_thoughts(self, marks: Marks, *, is_open: bool = False) -> "Rules":
        """The same for an answer that may have thoughts in front of it; is_open: the prompt has begun them."""
        if marks.has_channels:
            return replace(self, behind=CHANNEL_OF_ANSWERS)
        opening, closing = marks.opening.strip(), marks.closing.strip()
        return replace(self, behind=closing if is_open else "", opening=opening, closing=closing)


def chooser_of(sampler: Chooser, tokenizer: Tokenizer, rules: Rules | None, budget: Budget | None) -> Chooser:
    """What chooses by a sampler, held to rules and to a budget of thoughts, if there are any."""
    chooser = sampler if rules is None else Constrained(sampler, rules, tokenizer)
    return chooser if budget is None else Thinking(chooser, budget, tokenizer)


class Constrained:
    """Chooses as another does among the tokens that a grammar allows, once it has begun."""

    def __init__(self, chooser: Chooser, rules: Rules, tokenizer: Tokenizer) -> None:
        self._chooser, self._tokenizer = chooser, tokenizer
        self._matcher = rules.grammar.matcher(tokenizer)
        self._waits_for, self._is_included = rules.lazy_from or rules.behind, bool(rules.lazy_from)
        self._closing = rules.closing
        self._opening = self._single(rules.opening) if rules.opening and not self._waits_for else None
        self._is_fresh, self._tail = True, ""

    def _single(self, text: str) -> int | None:
        """The token that a text is, None if it takes several."""
        ids = self._encoded(text)
        return ids[0] if len(ids) == 1 else None

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token. Error if the grammar allows none."""
        if self._waits_for:
            return self._chooser.sample(logits)
        allowed = self._matcher.mask(logits)
        if self._is_fresh and self._opening is not None:
            allowed[self._opening] = logits[self._opening]
        return self._chooser.sample(allowed)

    def accept(self, token: int) -> None:
        """Goes on by a chosen token."""
        self._chooser.accept(token)
        text = self._tokenizer.piece(token, special=True).decode("utf-8", "replace")
        if self._waits_for:
            self._wait(text)
        elif self._is_fresh and token == self._opening:
            self._waits_for, self._opening = self._closing, None
        elif not (self._is_fresh and self._closing and not text.strip()):  # white space behind thoughts
            self._begin_with(token)

    def _begin_with(self, token: int) -> None:
        self._is_fresh = False
        self._matcher.accept(token)

    def _wait(self, text: str) -> None:
        """Looks for what the grammar waits for; what stands behind it already is its beginning."""
        self._tail += text
        place = self._tail.find(self._waits_for)
        if place < 0:
            self._tail = self._tail[-len(self._waits_for) :]
            return
        behind = (
            self._tail[place:] if self._is_included else self._tail[place + len(self._waits_for) :].lstrip()
        )
        tokens = self._encoded(behind) if behind else []
        if not self._matcher.can_accept(tokens):  # it only looks like the beginning
            self._tail = self._tail[place + 1 :]
            return
        self._waits_for = ""
        for token in tokens:
            self._begin_with(token)

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=True, continuing=True)
