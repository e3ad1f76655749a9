"""Answers taken apart while they come: however the text is cut, the parts are the same."""

import pytest

from graphsched.text.answer_stream import AnswerStream
from graphsched.text.answers import Marks
from graphsched.text.spoken import Text, Thought

TAGS = Marks("<think>\n", "</think>")


def parts(said: str, size: int, marks: Marks = TAGS, *, in_thoughts: bool = False) -> tuple[str, str]:
    """Thoughts and text of an answer that comes in pieces of so many characters."""
    stream = AnswerStream(marks, in_thoughts=in_thoughts)
    found = [part for i in range(0, len(said), size) for part in stream.push(said[i : i + size])]
    found += stream.finish()
    thoughts = "".join(part.text for part in found if isinstance(part, Thought))
    return thoughts, "".join(part.text for part in found if isinstance(part, Text))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 100])
@pytest.mark.parametrize(
    ("said", "in_thoughts", "expected"),
    [
        ("<think>\nWhy not?\n</think>\n\nYes.\n", False, ("Why not?", "Yes.")),
        ("Why  not?\n\n</think>\n\nYes, 1 < 2", True, ("Why  not?", "Yes, 1 < 2")),
        ("Never ending ", True, ("Never ending", "")),
        ("No thoughts <thin", False, ("", "No thoughts <thin")),
        (" a < b </think", False, ("", " a < b </think")),
        ("", True, ("", "")),
    ],
)
def test_thoughts_and_text(said: str, in_thoughts: bool, expected: tuple[str, str], size: int) -> None:
    assert parts(said, size, in_thoughts=in_thoughts) == expected


def test_a_model_without_marks_says_text_only() -> None:
    assert parts("<think>a</think>b", 1, Marks()) == ("", "<think>a</think>b")
