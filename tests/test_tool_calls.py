"""Calls of tools in the formats of the families: found by the template, read while they are written, followed."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dialect import dialect, tokenizer
from tool_formats import FAMILIES, NS, PARIS, SUM, TOOLS

from graphsched.errors import Error
from graphsched.text.answer_stream import AnswerStream, CallArguments, CallBegins, Delta, Text, Thought
from graphsched.text.answers import Marks, parse_answer
from graphsched.text.call_grammar import grammar_of
from graphsched.text.channel_stream import ChannelStream
from graphsched.text.tool_calls.families import format_of
from graphsched.text.tool_calls.formats import Format
from graphsched.text.tool_calls.told import written

THINK = Marks("<think>", "</think>")
Parts = tuple[str, str, list[tuple[str, str]]]
FUNCTIONS = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in TOOLS.items()]


def stream_of(format: Format, **more: Any) -> AnswerStream | ChannelStream:
    return ChannelStream() if format.name == "gpt-oss" else AnswerStream(THINK, format, tools=TOOLS, **more)


def joined(deltas: Iterable[Delta]) -> Parts:
    """Thoughts, text, and calls by name and arguments."""
    thoughts, text, calls = "", "", list[tuple[str, str]]()
    for delta in deltas:
        match delta:
            case Thought():
                thoughts += delta.text
            case Text():
                text += delta.text
            case CallBegins():
                assert delta.index == len(calls)
                calls.append((delta.name, ""))
            case CallArguments():
                name, arguments = calls[delta.index]
                calls[delta.index] = name, arguments + delta.text
    return thoughts, text, calls


def pushed(stream: AnswerStream | ChannelStream, pieces: Sequence[str]) -> list[Delta]:
    return [*(delta for piece in pieces for delta in stream.push(piece)), *stream.finish()]


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({p % (len(text) + 1) for p in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_format_is_found_by_its_template(name: str) -> None:
    assert dialect(FAMILIES[name].template).format.name == name


def test_a_template_that_knows_no_tools_has_calls_as_most_models_write_them() -> None:
    assert dialect("{% for m in messages %}{{ m.content }}{% endfor %}").format.name == "hermes"


@pytest.mark.parametrize("name", FAMILIES)
def test_calls_are_read(name: str) -> None:
    family = FAMILIES[name]
    for said, calls in (
        (family.one, [("weather", PARIS)]),
        (family.two, [("weather", PARIS), ("add", SUM)]),
    ):
        assert joined(pushed(stream_of(format_of(family.template)), [said])) == ("", "Well", calls)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(places=st.lists(st.integers(0, 2000), max_size=60), end=st.integers(0, 400))
def test_pieces_make_what_the_whole_makes(name: str, places: list[int], end: int) -> None:
    family = FAMILIES[name]
    said = family.two[:end]
    whole = joined(pushed(stream_of(format_of(family.template)), [said]))
    assert joined(pushed(stream_of(format_of(family.template)), cut(said, places))) == whole


@pytest.mark.parametrize("name", FAMILIES)
def test_no_half_mark_is_shown_and_arguments_come_in_pieces(name: str) -> None:
    family = FAMILIES[name]
    deltas = pushed(stream_of(format_of(family.template)), list(family.two))
    spoken = joined(deltas)[1]
    assert spoken == "Well"
    assert sum(isinstance(delta, CallArguments) and delta.index == 1 for delta in deltas) > 1


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("parallel", [True, False])
def test_grammars_allow_what_the_families_write(name: str, parallel: bool) -> None:
    family = FAMILIES[name]
    vocabulary, format = tokenizer("<|im_end|>", *family.special), format_of(family.template)
    said = family.two if parallel and not format.is_alone else family.one
    text = said[said.index(format.opening) :].split("<|call|>")[0]
    matcher = grammar_of(format, TOOLS, vocabulary, parallel=parallel).matcher(vocabulary)
    logits = np.zeros(vocabulary.n_vocab, np.float32)
    for token in vocabulary.encode(text, add_special=False, parse_special=True, continuing=True):
        assert np.isfinite(matcher.mask(logits)[token])
        matcher.accept(token)
    assert all(np.isfinite(matcher.mask(logits)[token]) for token in vocabulary.eog)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_grammar_allows_is_read_as_calls(name: str, seed: int) -> None:
    family, random = FAMILIES[name], np.random.default_rng(seed)
    vocabulary, format = tokenizer("<|im_end|>", *family.special), format_of(family.template)
    cities = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"], "type": "string"}}}
    tools: dict[str, Any] = {
        "add": TOOLS["add"],
        "none": {"type": "object", "properties": {}},
        "weather": cities,
    }
    tools = {key: {**schema, "additionalProperties": False} for key, schema in tools.items()}
    matcher = grammar_of(format, tools, vocabulary).matcher(vocabulary)
    said = b""
    for _ in range(3000):
        allowed = np.flatnonzero(np.isfinite(matcher.mask(np.zeros(vocabulary.n_vocab, np.float32)))).tolist()
        if vocabulary.eog & {*allowed}:
            break
        ends = [t for t in allowed if vocabulary.piece(t) in (b"<", b"}", b",")]
        token = int(random.choice(ends if ends and random.random() < 0.5 else allowed))
        matcher.accept(token)
        said += vocabulary.piece(token, special=True)
    stream = ChannelStream() if format.name == "gpt-oss" else AnswerStream(THINK, format, tools=tools)
    thoughts, text, calls = joined(pushed(stream, [said.decode("utf-8", "replace")]))
    assert (thoughts, text) == ("", "")
    assert calls
    for called, arguments in calls:
        assert set(tools[called].get("required", ())) <= set(json.loads(arguments))


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("<think>hm</think>Well", ("hm", "Well", [])),
        ("<think>hm <tool_call>", ("hm <tool_call>", "", [])),  # thoughts call nothing
        ("a < b <to", ("", "a < b <to", [])),
        (
            f'<tool_call>{{"name": "weather", "arguments": {PARIS}}}</tool_call>!',
            ("", "!", [("weather", PARIS)]),
        ),
        ('<tool_call>{"name": "none"}</tool_call>', ("", "", [("none", "{}")])),
        ('<tool_call>{"arguments": {"a": 1}, "name": "x"}</tool_call>', ("", "", [("x", '{"a": 1}')])),
        ("<tool_call>no call", ("", "<tool_call>no call", [])),
        ("  a plain answer \n", ("", "  a plain answer \n", [])),
    ],
)
def test_parts(said: str, parts: Parts) -> None:
    format = format_of("<tool_call>")
    assert joined(pushed(stream_of(format), [said])) == parts
    assert joined(pushed(stream_of(format), list(said))) == parts


def test_arguments_that_were_written_as_a_text_come_once_it_has_ended() -> None:
    written = json.dumps(PARIS)
    said = f'<tool_call>{{"name": "weather", "arguments": {written}}}</tool_call>'
    format = format_of(FAMILIES["hermes"].template)
    assert joined(pushed(stream_of(format), list(said))) == ("", "", [("weather", PARIS)])


@pytest.mark.parametrize(
    ("name", "said", "arguments"),
    [
        (
            "lfm2",
            "f(a='it\\'s', b=[1, {'c': None}], d=True, e=-1.5e3)",
            {"a": "it's", "b": [1, {"c": None}], "d": True, "e": -1500.0},
        ),
        ("lfm2", 'f(a="x, y) z", b=(1, 2), c=[])', {"a": "x, y) z", "b": [1, 2], "c": []}),
        (
            "gemma-4",
            'call:f{a:<|"|>x}, "y<|"|>,b:{c:[true,null],<|"|>d e<|"|>:2},e:{}}',
            {"a": 'x}, "y', "b": {"c": [True, None], "d e": 2}, "e": {}},
        ),
        (
            "minimax-m3",
            f'{NS}<invoke name="f">{NS}<a>{NS}<item>1{NS}</item>'
            f"{NS}<item>{NS}<b>x{NS}</b>{NS}</item>{NS}</a>{NS}</invoke>",
            {"a": [1, {"b": "x"}]},
        ),
        (
            "minicpm-5",
            '<function name="f"><param name="a"><![CDATA[x < "y"]]></param></function>',
            {"a": 'x < "y"'},
        ),
        ("apertus", '[{"f": {"name": "a", "b": [1]}}]', {"name": "a", "b": [1]}),
    ],
)
def test_values_of_each_kind(name: str, said: str, arguments: dict[str, Any]) -> None:
    format = format_of(FAMILIES[name].template)
    text = ("" if format.is_part else format.opening) + said + format.closing
    for pieces in ([text], list(text)):
        _, rest, calls = joined(pushed(stream_of(format), pieces))
        assert (rest, [(f, json.loads(a)) for f, a in calls]) == ("", [("f", arguments)])


@given(st.text(alphabet="[](){}:,=ab1 '\"\n", max_size=30))
def test_whatever_is_written_as_a_literal_has_an_end(written: str) -> None:
    for format in (format_of(FAMILIES["lfm2"].template), format_of(FAMILIES["gemma-4"].template)):
        head = "f(a=" if format.name == "lfm2" else "call:f{a:"
        _, _, calls = joined(pushed(stream_of(format), [format.opening + head + written + format.closing]))
        assert [name for name, _ in calls][:1] == ["f"]


def test_a_text_that_looks_like_parameters_stays_one() -> None:
    format, city = format_of(NS), f"{NS}<b>1{NS}</b>"
    said = f'{NS}<tool_call>\n{NS}<invoke name="weather">{NS}<city>{city}{NS}</city>{NS}</invoke>\n{NS}</tool_call>'
    assert joined(pushed(stream_of(format), [said]))[2] == [("weather", json.dumps({"city": city}))]
    deep = f"{NS}<a>" * 400 + "1" + f"{NS}</a>" * 400
    said = f'{NS}<tool_call>\n{NS}<invoke name="f">{deep}{NS}</invoke>\n{NS}</tool_call>'
    assert joined(pushed(stream_of(format), [said]))[2][0][0] == "f"


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_for_a_template_without_calls_is_read(name: str) -> None:
    format = format_of(FAMILIES[name].template)
    if format.name == "gpt-oss":  # its template writes calls
        return
    given = [
        {"function": {"name": n, "arguments": json.loads(a)}} for n, a in (("weather", PARIS), ("add", SUM))
    ]
    calls = given[: 1 if format.is_alone else 2]
    told = joined(pushed(stream_of(format), [written(calls, format)]))[2]
    assert [{"function": {"name": n, "arguments": json.loads(a)}} for n, a in told] == calls


def test_a_template_without_calls_has_them_in_texts() -> None:
    template = FAMILIES["lfm2"].template.partition("{% for c")[0] + "{% endfor %}"
    prompt = dialect(template).render(CONVERSATION, tools=FUNCTIONS)
    assert '<assistant><|tool_call_start|>[weather(city="Paris")]<|tool_call_end|>' in prompt
    assert "<tool>sunny" in prompt


@pytest.mark.parametrize(
    "head",
    [" to=functions.weather<|channel|>commentary json", "<|channel|>commentary to=functions.weather json"],
)
def test_to_whom_a_call_is_may_stand_in_front_of_its_channel(head: str) -> None:
    said = f"{head}<|message|>{PARIS}<|call|>"
    for pieces in ([said], list(said)):
        assert joined(pushed(ChannelStream(), pieces)) == ("", "", [("weather", PARIS)])
    for plain in (" to be or not", "t", "plain"):
        assert joined(pushed(ChannelStream(), list(plain))) == ("", plain, [])


def test_without_tools_marks_of_calls_are_text() -> None:
    said = 'Write <tool_call>{"name": "a"}</tool_call>'
    assert joined(pushed(AnswerStream(THINK, format_of("<tool_call>")), list(said))) == ("", said, [])


def test_thoughts_that_the_prompt_has_opened() -> None:
    stream = AnswerStream(THINK, in_thoughts=True)
    assert pushed(stream, ["so ", "it is</th", "ink>\n\nY", "es"]) == [
        Thought("so"), Thought(" it is"), Text("Y"), Text("es")
    ]  # fmt: skip


@given(
    said=st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<", "<th", "</", " ", "\n", "a", "b c", "<response>", "</response>", ">"]
        ),
        max_size=12,
    ),
    places=st.lists(st.integers(0, 100), max_size=20),
    in_thoughts=st.booleans(),
)
@settings(deadline=None)
def test_thoughts_and_text_in_pieces(said: list[str], places: list[int], in_thoughts: bool) -> None:
    text = "".join(said)
    whole = joined(pushed(AnswerStream(THINK, in_thoughts=in_thoughts), [text]))
    assert joined(pushed(AnswerStream(THINK, in_thoughts=in_thoughts), cut(text, places))) == whole
    if text.count("<think>") + in_thoughts <= 1 and text.count("</think>") <= 1 and "response" not in text:
        answer = parse_answer(text, THINK, in_thoughts=in_thoughts)
        if text.find("</think>") > text.find("<think>") or "</think>" not in text:
            lead = text.partition("<think>")[0].strip() if "<think>" in text and not in_thoughts else ""
            if not lead and (in_thoughts or "<think>" in text):
                assert (answer.thoughts, answer.text) == (whole[0], whole[1])


ARGUMENTS = {"city": "Paris"}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "id": "a", "function": {"name": "weather", "arguments": ARGUMENTS}}
        ],
    },
    {"role": "tool", "content": "sunny", "tool_call_id": "a"},
]


@pytest.mark.parametrize("name", FAMILIES)
def test_templates_are_given_tools_calls_and_results(name: str) -> None:
    prompt = dialect(FAMILIES[name].template).render(CONVERSATION, tools=FUNCTIONS)
    assert '"city"' in prompt
    assert "weather" + json.dumps(ARGUMENTS) in prompt
    assert "<tool>sunny" in prompt


def test_a_template_that_wants_arguments_as_text() -> None:
    template = (
        "{{ tools | tojson }}{% for m in messages %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ 'args ' + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    assert f"args {json.dumps(ARGUMENTS)}" in dialect(template).render(CONVERSATION, tools=FUNCTIONS)


def test_a_template_that_knows_no_tools_is_told_of_them_in_texts() -> None:
    prompt = dialect("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}").render(
        CONVERSATION, tools=FUNCTIONS
    )
    system, _, rest = prompt.partition("<user>Weather?")
    assert system.startswith("<system>")
    assert '"name": "weather"' in system
    assert "<tool_call>" in system
    stream = AnswerStream(THINK, format_of(""), tools=TOOLS)
    assert joined(pushed(stream, [rest.partition("<assistant>")[2].partition("<user>")[0]]))[2] == [
        ("weather", PARIS)
    ]
    assert rest.endswith("<user><tool_response>\nsunny\n</tool_response>")


def test_a_template_that_refuses_says_so() -> None:
    refuses = (
        "{% if tools %}{{ raise_exception('no tools') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(Error, match="no tools"):
        dialect(refuses).render(CONVERSATION[:1], tools=FUNCTIONS)
