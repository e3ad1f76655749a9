"""Texts that follow grammars: what may be given, what comes out of the embedded model, where grammars begin."""

import gc
import json
import re
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from test_dialect import tokenizer

from graphsched.errors import OptionError
from graphsched.session.session import Session, load
from graphsched.text.answers import Marks
from graphsched.text.bpe import BYTE_CHARACTERS
from graphsched.text.constrained import Constrained, Rules
from graphsched.text.grammar import Grammar
from graphsched.text.sampling import Sampler, SamplingOptions
from graphsched.text.thinking import Budget, Chooser, Thinking
from graphsched.text.tokenizer import Tokenizer, from_metadata

pytest.importorskip("llguidance")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    session = load()
    yield session
    session.close()


def generated(session: Session, rules: Rules, seed: int | None, n: int = 150) -> tuple[str, bool]:
    """What the model writes by rules, and whether it came to an end."""
    session.reset()
    tokenizer = session.tokenizer
    options = SamplingOptions(temperature=0) if seed is None else SamplingOptions(temperature=1, seed=seed)
    chooser = Constrained(Sampler(options, tokenizer), rules, tokenizer)
    logits, stream, said = session.eval(tokenizer.encode("Once upon a time"))[-1], tokenizer.stream(), ""
    for _ in range(n):
        token = chooser.sample(logits)
        chooser.accept(token)
        if token in tokenizer.eog:
            return said + stream.flush(), True
        said += stream.push(token)
        logits = session.eval([token])[-1]
    return said, False


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_json_of_a_schema(session: Session, seed: int | None) -> None:
    said, has_ended = generated(session, Rules(Grammar.from_schema(SCHEMA)), seed)
    found = json.loads(said)
    assert has_ended
    assert list(found) == ["name", "age", "kind"]
    assert found["kind"] in ("cat", "dog")
    assert 0 <= found["age"] <= 99
    assert len(found["name"]) <= 12


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar.from_regex("[a-z]{3,8} (cat|dog)"), "[a-z]{3,8} (cat|dog)"),
        (Grammar.from_gbnf('root ::= "yes" | num "x"\nnum ::= [0-9]{2,4}'), "yes|[0-9]{2,4}x"),
        (Grammar.from_lark('start: "a" b~1..3 "c"\nb: "b" | "é"'), "a[bé]{1,3}c"),
    ],
)
@pytest.mark.parametrize("seed", [None, 1])
def test_other_notations(session: Session, grammar: Grammar, pattern: str, seed: int | None) -> None:
    said, has_ended = generated(session, Rules(grammar), seed)
    assert has_ended
    assert re.fullmatch(pattern, said)


def test_any_object_begins_as_one(session: Session) -> None:
    assert generated(session, Rules(Grammar.from_json()), 3, 20)[0].startswith("{")


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(40):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


@pytest.mark.parametrize(
    ("make", "given", "sentence"),
    [
        (Grammar.from_regex, "(", "the regular expression cannot be used: "),
        (Grammar.from_regex, " ", "the regular expression is empty"),
        (
            Grammar.from_regex,
            "a" * 300_000,
            "the regular expression has 300000 characters, 262144 are possible",
        ),
        (Grammar.from_gbnf, "root ::= foo", "the grammar cannot be used: Rule 'foo' not found"),
        (Grammar.from_gbnf, 'x ::= "a"', "the grammar cannot be used: No 'root' rule found"),
        (Grammar.from_gbnf, "nothing", "the grammar cannot be used: Expected ::="),
        (Grammar.from_lark, "start: x", "the grammar cannot be used: at 1(8): unknown name"),
        (Grammar.from_schema, {"type": "nothing"}, "the JSON schema cannot be used: Invalid type: nothing"),
        (Grammar.from_schema, {"$ref": "http://x.y/z"}, "the JSON schema cannot be used: "),
        (Grammar.from_schema, {"$ref": "file:///etc/passwd"}, "the JSON schema cannot be used: "),
        (
            Grammar.from_schema,
            {"allOf": [{"type": "string"}, {"type": "integer"}]},
            "the JSON schema cannot be used: Unsatisfiable schema",
        ),
        (
            Grammar.from_schema,
            DEEP,
            "the JSON schema has more than 64 objects and lists inside of each other",
        ),
    ],
)
def test_bad_ones_are_refused_in_one_sentence(make: Any, given: Any, sentence: str) -> None:
    with pytest.raises(OptionError) as e:
        make(given)
    assert str(e.value).startswith(sentence)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 300


@pytest.mark.parametrize("text", ["root ::= root", 'root ::= root "a"'])
def test_a_grammar_without_texts_ends_at_once(text: str) -> None:
    with pytest.raises(
        OptionError, match=r"^the grammar cannot be followed: there is no text that it describes$"
    ):
        Grammar.from_gbnf(text).matcher(tokenizer("<|im_end|>")).mask(np.zeros(257, np.float32))


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.from_regex("(a{1,1000}){1,1000}"),
        Grammar.from_regex("(?:a|b)*c(?:a|b){300}"),
        Grammar.from_gbnf('root ::= "a"{1,100000}'),
        Grammar.from_schema({"type": "string", "pattern": "^(a|b)*c(a|b){300}$"}),
    ],
)
def test_expensive_ones_cost_a_bounded_time(grammar: Grammar) -> None:
    byte = tokenizer("<|im_end|>")
    begin, chooser = time.perf_counter(), Constrained(Always(byte, "a"), Rules(grammar), byte)
    with suppress(OptionError):  # one that takes too much is refused on the way
        for _ in range(30):
            chooser.accept(chooser.sample(np.zeros(257, np.float32)))
    assert time.perf_counter() - begin < 10


def test_without_the_library_one_sentence_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(OptionError, match=r"pip install 'graphsched\[server\]'"):
        Grammar.from_regex("never compiled before")


def with_words(*words: str) -> Tokenizer:
    """A vocabulary of bytes, an end, and words."""
    return from_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": (*BYTE_CHARACTERS, "<|im_end|>", *words),
            "tokenizer.ggml.merges": (),
            "tokenizer.ggml.token_type": np.array(
                [1] * 256 + [3] + [4 if len(words) < 9 else 1] * len(words), np.int32
            ),
        }
    )


class Always:
    """Wants the tokens of a text, one behind the other; the first that is allowed where it may not have its own."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._ids = tokenizer.encode(text, add_special=False, parse_special=True)

    def sample(self, logits: np.ndarray[Any, Any]) -> int:
        wanted = self._ids[0] if self._ids else -1
        if self._ids and np.isfinite(logits[wanted]):
            return wanted
        return int(np.flatnonzero(np.isfinite(logits))[0])

    def accept(self, token: int) -> None:
        if self._ids and self._ids[0] == token and len(self._ids) > 1:
            self._ids.pop(0)


THINK = ("<think>", "</think>")
BYTES = tokenizer("<|im_end|>", *THINK)
YES = Grammar.from_regex("(yes|no)!")


def said_by(chooser: Chooser, n: int = 100, vocabulary: Tokenizer = BYTES) -> str:
    """What is chosen until an end, control tokens with their texts; all is allowed but what a chooser takes away."""
    said = ""
    for _ in range(n):
        token = chooser.sample(np.zeros(vocabulary.n_vocab, np.float32))
        chooser.accept(token)
        if token in vocabulary.eog:
            return said
        said += vocabulary.piece(token, special=True).decode()
    return said + "…"


@pytest.mark.parametrize(
    ("rules", "wanted", "said"),
    [
        (Rules(YES), "yes!<|im_end|>", "yes!"),
        (Rules(YES), "no!!!", "no!"),  # only an end follows
        (Rules(YES), "<think>yes", "no!"),  # no thoughts without marks for them
        (
            Rules(YES, opening="<think>", closing="</think>"),
            "<think>so</think>yes!<|im_end|>",
            "<think>so</think>yes!",
        ),
        (Rules(YES, opening="<think>", closing="</think>"), "no!<|im_end|>", "no!"),
        (Rules(YES, behind="</think>", closing="</think>"), "so</think>yes!<|im_end|>", "so</think>yes!"),
        (Rules(YES, lazy_from="yes"), "I say yes!<|im_end|>", "I say yes!"),
        (Rules(YES, lazy_from="yes"), "I say no<|im_end|>", "I say no"),
        (Rules(YES, lazy_from="yes"), "yea, yes???", "yea, yes!"),
    ],
)
def test_where_a_grammar_begins(rules: Rules, wanted: str, said: str) -> None:
    assert said_by(Constrained(Always(BYTES, wanted), rules, BYTES)) == said


def test_a_token_that_goes_beyond_the_trigger_is_a_part_of_the_grammar() -> None:
    merged = with_words("es!")
    chooser = Constrained(Always(merged, ""), Rules(YES, lazy_from="yes"), merged)
    for token in (merged.encode("y", add_special=False)[0], 257):
        chooser.accept(token)
    assert chooser.sample(np.zeros(258, np.float32)) in merged.eog


def test_a_trigger_that_the_grammar_does_not_go_on_from_is_none() -> None:
    rules = Rules(Grammar.from_regex("<a>x"), lazy_from="<a>")
    merged = tokenizer("<|im_end|>")
    chooser = Constrained(Always(merged, ""), rules, merged)
    for token in merged.encode("<a>", add_special=False):
        chooser.accept(token)
    assert merged.piece(chooser.sample(np.zeros(257, np.float32))) == b"x"


@pytest.mark.parametrize("limit", [0, 3])
def test_thoughts_that_are_cut_off_are_no_part_of_the_grammar(limit: int) -> None:
    marks = Marks(*THINK)
    rules = Rules(YES, behind=marks.closing, closing=marks.closing)
    inner = Constrained(Always(BYTES, "hmmmmmmmmmmmmmmmmmmm"), rules, BYTES)
    chooser = Thinking(inner, Budget(limit, marks, is_open=True), BYTES)
    assert said_by(chooser) == "hmmm"[:limit] + "\n</think>\n\nno!"


def test_a_mask_costs_less_than_a_millisecond() -> None:
    words = with_words(*(f"w{i}" for i in range(150_000)))
    matcher = Grammar.from_schema(SCHEMA).matcher(words)
    logits = np.zeros(words.n_vocab, np.float32)
    matcher.mask(logits)
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        matcher.mask(logits)
        times.append(time.perf_counter() - begin)
    assert min(times) < 1e-3


def test_logits_are_left_as_they_are() -> None:
    logits = np.arange(BYTES.n_vocab, dtype=np.float32)
    masked = YES.matcher(BYTES).mask(logits)
    assert np.isfinite(logits).all()
    assert sorted(bytes([b]).decode() for b in b"yn") == sorted(
        BYTES.piece(int(t)).decode() for t in np.flatnonzero(np.isfinite(masked))
    )


CHANNELS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>")


@pytest.mark.parametrize("wanted", ["<|channel|>analysis<|message|>hm<|end|><|start|>assistant", ""])
def test_in_channels_it_begins_with_what_is_for_users(wanted: str) -> None:
    channels = tokenizer(*CHANNELS)
    rules = Rules(YES).behind_thoughts(Marks(has_channels=True))
    head = f"{wanted}<|channel|>final<|message|>"
    chooser = Constrained(Always(channels, f"{head}no!<|return|>"), rules, channels)
    said = said_by(chooser, vocabulary=channels)
    assert said == f"{head}no!"


def test_an_empty_schema_is_any_object() -> None:
    assert Grammar.from_schema({}) == Grammar.from_json()


def test_a_tokenizer_is_not_kept() -> None:
    own = with_words("apricot")
    YES.matcher(own).mask(np.zeros(own.n_vocab, np.float32))
    kept = weakref.ref(own)
    del own
    gc.collect()
    assert kept() is None
