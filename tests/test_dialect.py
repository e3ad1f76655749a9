"""Chats that last: how a template takes a conversation, answers taken apart, and templates that a user brings."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphsched
from graphsched.cli import main as cli
from graphsched.cli.interactive import Chat
from graphsched.errors import Error
from graphsched.gguf.copy import changed_metadata, write_copy
from graphsched.gguf.loader import open_model
from graphsched.gguf.override import Override
from graphsched.session.model import DEFAULT_MODEL
from graphsched.session.session import Timings
from graphsched.text.answers import Answer, Marks, marks_of, parse_answer
from graphsched.text.bpe import BYTE_CHARACTERS
from graphsched.text.chat import DEFAULT_TEMPLATE, render
from graphsched.text.chat_templates import (
    BUILT_IN,
    budget_values,
    parse_template,
    parse_values,
)
from graphsched.text.dialect import Dialect, dialect_of, unprinted
from graphsched.text.plain import read_plain
from graphsched.text.tokenizer import Tokenizer, from_metadata

STRINGS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
LISTS = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.content %}"
    "{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
)
BOTH = (
    "{% for m in messages %}{% if m.content is string %}S{{ m.content }}"
    "{% else %}L{{ m.content[0].text }}{% endif %}{% endfor %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + STRINGS
DROPS = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
ONLY_LAST = "{{ messages[-1].content }}"
THINKS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}"
    "</think>{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
NOT_EMPTY = (
    "{% for m in messages %}{% if not m.content %}{{ raise_exception('an empty message') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)
# Refuses what gpt-oss's own template refuses, and writes thoughts as that does.
HARMONY = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{% if '<|channel|>' in message.content %}"
    "{{ raise_exception('You have passed a message containing <|channel|> tags') }}{% endif %}"
    "{% if message.thinking and loop.last %}{{ message.thinking }}{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ message.content }}<|end|>"
    "{% else %}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def tokenizer(*special: str, template: str | None = None) -> Tokenizer:
    tokens = (*BYTE_CHARACTERS, *special)
    keys: dict[str, Any] = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    keys |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ()}
    keys["tokenizer.ggml.token_type"] = np.array([1] * 256 + [3] * len(special), np.int32)
    return from_metadata(keys | ({} if template is None else {"tokenizer.chat_template": template}))


def dialect(template: str | None, *special: str, **more: Any) -> Dialect:
    return dialect_of(template, tokenizer(*special), more=more)


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TURN = [message("user", "one"), message("assistant", "two"), message("user", "three")]


# --- how a template takes messages ---


@pytest.mark.parametrize(
    ("template", "lists", "merges"),
    [
        (STRINGS, False, False),
        (LISTS, True, False),
        (BOTH, False, False),
        (REFUSES, False, True),
        (DROPS, False, True),
        (REFUSES.replace(STRINGS, LISTS), True, True),
        ("{{ messages | tojson }}", False, False),
        ("{% for m in messages %}{{ m.content | trim }}{% endfor %}", False, False),
        ("{% for m in messages %}{{ m.content[0]['text'] }}{% endfor %}", True, False),
    ],
)
def test_what_a_template_needs_is_found_out(template: str, lists: bool, merges: bool) -> None:
    found = dialect(template)
    assert (found.lists, found.merges_system) == (lists, merges)
    conversation = [message("system", "zero"), *TURN]
    rendered = found.render(conversation)
    assert unprinted(rendered, conversation) == ()
    if merges:
        assert "zero\n\none" in rendered


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("hello", "the chat template never prints what the user says"),
        ("{{ messages[0].role }}", "the chat template never prints what the user says"),
        (
            "{% for m in messages if m.role == 'x' %}{{ m.content }}{% endfor %}",
            "never prints what the user says",
        ),
        ("{{ raise_exception('no') }}", "the chat template failed: no"),
        ("{{ documents.x }}", "the chat template failed: 'documents' is undefined"),
        ("{% for", "the chat template failed: "),
    ],
)
def test_a_template_that_is_of_no_use_fails_early(template: str, sentence: str) -> None:
    with pytest.raises(Error, match=sentence):
        dialect(template)


def test_values_that_a_template_asks_for() -> None:
    asks = "{{ '' if enable_thinking is defined else raise_exception('undefined') }}" + STRINGS
    assert dialect(asks, enable_thinking=False).render(TURN[:1]) == "<user>one"
    with pytest.raises(Error, match="undefined"):
        dialect(asks)
    assert render("{{ a }}{{ bos_token }}", [], bos="<s>", eos="", more={"a": 1, "bos_token": "x"}) == "1<s>"


@pytest.mark.parametrize("template", [None, "", " \n"])
def test_an_empty_template_is_none(template: str | None) -> None:
    found = dialect(template)
    assert found.render(TURN[:1]) == "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    assert found.notes == (
        "the file has no chat template, ChatML is used, "
        "whose <|im_start|> and <|im_end|> are no token of this vocabulary",
    )
    assert dialect(template, "<|im_start|>", "<|im_end|>").notes == (
        "the file has no chat template, ChatML is used",
    )
    assert render(template, TURN[:1], bos="", eos="") == found.render(TURN[:1])
    assert dialect(STRINGS).notes == ()


def test_messages_that_are_never_printed() -> None:
    conversation = [message("system", "zero"), *TURN]
    assert unprinted(render(DROPS, conversation, bos="", eos=""), conversation) == (0,)
    assert unprinted(render(ONLY_LAST, conversation, bos="", eos=""), conversation) == (0, 1, 2)
    spaced = [message("user", " one \n"), message("user", ""), message("tool", None)]
    assert unprinted("<one>", spaced) == ()
    assert unprinted("", spaced) == (0,)
    odd = [message("user", 'a "b"\n\n  ünd c')]
    for form in ("{{ messages[0].content | tojson }}", "{{ messages[0].content | upper | lower | trim }}"):
        assert unprinted(render(form, odd, bos="", eos=""), odd) == ()
    assert unprinted(render("{{ messages[0].content[:5] }}", odd, bos="", eos=""), odd) == (0,)


def test_a_template_that_goes_through_tools_that_are_not_there() -> None:
    found = dialect("{% for t in tools %}{{ t }}{% endfor %}" + STRINGS)
    assert (found.tools, found.lists) == ((), False)
    assert found.render(TURN[:1]) == "<user>one"
    assert dialect(STRINGS).tools is None
    asks = "{{ raise_exception('no functions') if functions is not defined }}" + STRINGS
    assert dialect(asks).render(TURN[:1]) == "<user>one"
    assert dialect("{{ functions }}" + asks, functions="f").render(TURN[:1]) == "f<user>one"
    assert dialect("{% if tools is none %}no {% endif %}" + STRINGS).render(TURN[:1]) == "no <user>one"


def test_contents_that_are_lists_already_stay() -> None:
    picture = [{"type": "text", "text": "see"}]
    assert dialect(LISTS).render([message("user", picture)]) == "<user>see"


# --- answers taken apart ---

THINK = Marks("<think>", "</think>")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<think>\nhm\n</think>\n\nYes", Answer("Yes", "hm")),
        ("hm\n</think>\n\nYes", Answer("Yes", "hm")),
        ("<think>hm", Answer("", "hm")),
        (" Yes ", Answer(" Yes ")),
        ("<think></think>Yes", Answer("Yes")),
        ("Well. <think>hm</think> Yes", Answer("Well.  Yes", "hm")),
        ("", Answer("")),
        ("</think>", Answer("", "")),
        ("a < b > c", Answer("a < b > c")),
    ],
)
def test_thoughts(said: str, answer: Answer) -> None:
    assert parse_answer(said, THINK) == answer
    assert parse_answer(said, Marks()).thoughts == ""


def test_thoughts_that_the_prompt_has_opened() -> None:
    assert THINK.opens("<assistant><think>\n")
    assert not THINK.opens("<think>x")
    assert parse_answer("hm</think>Yes", THINK, in_thoughts=True) == Answer("Yes", "hm")
    assert parse_answer("hm, cut", THINK, in_thoughts=True) == Answer("", "hm, cut")
    assert parse_answer("hm, cut", THINK) == Answer("hm, cut")
    assert (THINK.ending, Marks().ending) == ("\n</think>\n\n", "")


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|channel>thought\n", "<channel|>"),
        ("◁think▷", "◁/think▷"),
    ],
)
def test_marks_by_template_or_vocabulary(opening: str, closing: str) -> None:
    own = Marks(opening, closing)
    assert marks_of(f"x {closing} y", lambda text: False) == own
    assert marks_of("", lambda text: text in (opening, closing)) == own
    assert marks_of("", lambda text: text == opening) == Marks()
    assert parse_answer(f"{opening}hm{closing}Yes", own) == Answer("Yes", "hm")


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("said", "text", "calls"),
    [
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "", (call("f", a=1),)),
        ('Look: <tool_call>{"name": "f", "parameters": {}}</tool_call>', "Look:", (call("f"),)),
        (
            '<tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}</tool_call>',
            "",
            (call("f"), call("g")),
        ),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', "", (call("f", a=1),)),
        ('Hm[TOOL_CALLS]f[ARGS]{"a": 2}', "Hm", (call("f", a=2),)),
        ("<tool_call>{no json}</tool_call>", "<tool_call>{no json}</tool_call>", ()),
        ("[TOOL_CALLS] none", "[TOOL_CALLS] none", ()),
        ('{"name": "f"}', '{"name": "f"}', ()),
    ],
)
def test_calls_of_tools(said: str, text: str, calls: tuple[Any, ...]) -> None:
    assert parse_answer(said, THINK) == Answer(text, "", calls)
    found = dialect(STRINGS).message(Answer(text, "", calls))
    assert found.get("tool_calls", []) == list(calls)


CHANNELS = Marks(has_channels=True)
START, FINAL = "<|start|>assistant", "<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (f"<|channel|>analysis<|message|>hm<|end|>{START}{FINAL}Yes<|return|>", Answer("Yes", "hm")),
        (f"{FINAL}Yes", Answer("Yes")),
        ("<|channel|>analysis<|message|>hm", Answer("", "hm")),
        (
            f"<|channel|>analysis<|message|>a<|end|>{START}<|channel|>analysis<|message|>b<|end|>",
            Answer("", "a\n\nb"),
        ),
        (f"<|channel|>commentary<|message|>I look.<|end|>{START}{FINAL}Yes", Answer("I look.\n\nYes")),
        (
            '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>',
            Answer("", "", (call("f", a=1),)),
        ),
        (
            f"<|channel|>analysis<|message|>hm<|end|>{START} to=functions.g<|channel|>commentary json<|message|>{{}}",
            Answer("", "hm", (call("g"),)),
        ),
        ("Yes<|end|>", Answer("Yes")),
    ],
)
def test_channels(said: str, answer: Answer) -> None:
    assert parse_answer(said, CHANNELS) == answer


def test_the_form_that_a_template_wants() -> None:
    thinks = dialect(THINKS)
    assert (thinks.thoughts_key, thinks.marks) == ("reasoning_content", THINK)
    prompt = thinks.render(TURN[:1])
    said = thinks.remembered("hm</think>two", prompt)
    assert said == message("assistant", "two", reasoning_content="hm")
    assert thinks.render([TURN[0], said, TURN[2]]) == "<user>one<assistant>two<user>three<assistant><think>\n"
    assert dialect(HARMONY).thoughts_key == "thinking"
    assert dialect(STRINGS + "</think>").message(Answer("two", "hm")) == message("assistant", "two")
    assert dialect(STRINGS).remembered(" two", "") == message("assistant", " two")


def test_empty_answers() -> None:
    assert dialect(STRINGS).remembered("", "") == message("assistant", "")
    refuses = dialect(NOT_EMPTY + "</think>")
    assert not refuses.takes_empty
    assert refuses.remembered("", "") is refuses.remembered("<think>hm</think>", "") is None
    assert refuses.remembered("x", "") == message("assistant", "x")


# --- a chat ---


class Model:
    """A session whose model says what it is told to; `read` are the prompts."""

    n_past, n_ctx, stop_reason = 0, 4096, "eog"

    def __init__(self, template: str | None, says: Sequence[str], *special: str) -> None:
        self.tokenizer = tokenizer(*special, template=template)
        self.timings, self.says, self.read = Timings(), list(says), list[str]()

    def holds(self, n: int) -> bool:
        return True

    def rewind(self, n: int) -> None:
        assert n == 0

    def generate(self, ids: Sequence[int], **_: Any) -> list[str]:
        self.read.append(b"".join(self.tokenizer.piece(i, special=True) for i in ids).decode())
        return list(self.says.pop(0))


def talk(own: str | None, *says: str, special: Sequence[str] = (), **options: Any) -> list[str]:
    """The prompts of a chat whose user says one, two, ..., the model what is given."""
    session: Any = Model(own, says, *special)
    chat = Chat(session, **options)
    for text, said in zip(("one", "two", "three"), says, strict=False):
        assert "".join(chat.answer(text)) == said
    return session.read


def test_a_second_turn_of_channels() -> None:
    said = f"<|channel|>analysis<|message|>hm<|end|>{START}{FINAL}Hello"
    prompts = talk(HARMONY, said, said)
    assert prompts[1] == (
        "<|start|>user<|message|>one<|end|><|start|>assistant<|channel|>final<|message|>Hello<|end|>"
        "<|start|>user<|message|>two<|end|><|start|>assistant"
    )


def test_thoughts_of_earlier_turns_are_gone() -> None:
    prompts = talk(THINKS, "hm</think>\n\nYes", "well</think>No", "x")
    assert prompts[2] == "<user>one<assistant>Yes<user>two<assistant>No<user>three<assistant><think>\n"
    prompts = talk(STRINGS, "<think>hm</think>Yes", "x", special=("<think>", "</think>"))
    assert prompts[1] == "<user>one<assistant>Yes<user>two"


def test_a_turn_whose_answer_would_be_refused_is_left_out() -> None:
    assert talk(NOT_EMPTY, "", "x", "y") == ["one", "two", "twoxthree"]


@pytest.mark.parametrize("template", [REFUSES, DROPS, REFUSES.replace(STRINGS, LISTS)])
def test_a_system_prompt_without_a_system_role(template: str) -> None:
    prompts = talk(template, "yes", "no", system="Be brief")
    assert prompts[0] == "<user>Be brief\n\none"
    assert prompts[1] == "<user>Be brief\n\none<assistant>yes<user>two"


def test_lists_and_empty_templates_hear_the_user() -> None:
    assert talk(LISTS, "a", "b")[1] == "<user>one<assistant>a<user>two"
    assert "one" in talk("", "a")[0]
    assert talk(STRINGS, "a", template="{% for m in messages %}[{{ m.content }}]{% endfor %}") == ["[one]"]


SECOND = (
    "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0].content }}"
)


def with_template(template: str, path: Path) -> Path:
    with open_model(DEFAULT_MODEL) as file:
        rule = Override("tokenizer.chat_template", template, "")
        write_copy(file, path, changed_metadata(file, [rule])[0], list(file.tensors.values()))
    return path


def test_a_template_that_fails_does_not_end_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_template(SECOND, tmp_path / "m.gguf")
    monkeypatch.setattr("sys.stdin", io.StringIO("Tom had a dog\nThe sun\n"))
    assert cli.run(["run", "-m", str(path), "-i", "-n", "3", "--temp", "0", "--no-timings"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err == "the chat template failed: one turn only; the conversation starts again\n"
    path = with_template("hello", tmp_path / "n.gguf")
    monkeypatch.setattr("sys.stdin", io.StringIO("Tom\n"))
    assert cli.run(["run", "-m", str(path), "-i", "-n", "3", "-q"]) == 2
    assert capsys.readouterr().err == "graphsched: the chat template never prints what the user says\n"


def test_what_the_cache_keeps_is_what_was_said(tmp_path: Path) -> None:
    """Answers without parts stay as they were, so that the cache goes on being of use."""
    chat = Chat(graphsched.load(), sampling=graphsched.SamplingOptions(temperature=0), n_predict=8)
    first = "".join(chat.answer("Lily went to the park"))
    held = chat.session.n_past
    list(chat.answer("Tom"))
    assert chat._messages[1]["content"] == first
    assert chat.session.timings.prompt_tokens < held


# --- templates that a user brings ---


EXPECTED = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
    "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
    "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST]",
    "mistral-v1": " [INST] S\n\nA [/INST] B</s> [INST] C [/INST]",
    "mistral-v3": "[INST] S\n\nA[/INST] B</s>[INST] C[/INST]",
    "mistral-v3-tekken": "[INST]S\n\nA[/INST]B</s>[INST]C[/INST]",
    "mistral-v7": "[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST] A[/INST] B</s>[INST] C[/INST]",
    "mistral-v7-tekken": "[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST]B</s>[INST]C[/INST]",
    "phi3": "<|system|>\nS<|end|>\n<|user|>\nA<|end|>\n<|assistant|>\nB<|end|>\n<|user|>\nC<|end|>\n<|assistant|>\n",
    "gemma": "<start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n"
    "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n",
    "deepseek3": "S\n\n<｜User｜>A<｜Assistant｜>B<｜end▁of▁sentence｜><｜User｜>C<｜Assistant｜>",
    "vicuna": "S\n\nUSER: A\nASSISTANT: B</s>\nUSER: C\nASSISTANT:",
    "command-r": "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>A<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>B<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>C<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nA</s>\n<|assistant|>\nB</s>\n<|user|>\nC</s>\n<|assistant|>\n",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_templates_by_name(name: str) -> None:
    vocabulary: Any = tokenizer("<s>", "</s>")
    vocabulary.bos, vocabulary.eos = 256, 257
    conversation = [
        message("system", "S"),
        message("user", "A"),
        message("assistant", "B"),
        message("user", "C"),
    ]
    assert (
        dialect_of(parse_template("--chat-template", name), vocabulary).render(conversation) == EXPECTED[name]
    )


def test_every_name_holds_a_conversation() -> None:
    for name in BUILT_IN:
        found = dialect(parse_template("-", name))
        assert unprinted(found.render(TURN), TURN) == (), name
        assert (
            found.render(TURN).index("one")
            < found.render(TURN).index("two")
            < found.render(TURN).index("three")
        )
    assert render(BUILT_IN["chatml"], TURN, bos="", eos="") == render(DEFAULT_TEMPLATE, TURN, bos="", eos="")


def test_a_template_as_text_or_file(tmp_path: Path) -> None:
    assert parse_template("--chat-template", STRINGS) == STRINGS
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa\r\n{{ x }}\r\n")
    assert read_plain("--chat-template-file", str(tmp_path / "t")) == "a\n{{ x }}"
    for content, sentence in {b"": "is empty", b" \r\n": "is empty", b"\xff\xff\xff": "is no text"}.items():
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(Error, match=f"^--chat-template-file .*t: {sentence}$"):
            read_plain("--chat-template-file", str(tmp_path / "t"))
    with pytest.raises(Error, match="no: no such file or directory"):
        read_plain("--chat-template-file", str(tmp_path / "no"))
    for text in ("chatm", "", "llama 2"):
        with pytest.raises(
            Error, match=r"is neither a template nor the name of one; there are bitnet, chatml"
        ):
            parse_template("--chat-template", text)


def test_values_and_budgets() -> None:
    assert parse_values("-", '{"enable_thinking": false}') == {"enable_thinking": False}
    for text in ("", "[]", "{", "enable_thinking=false", "1", "[" * 100_000):
        with pytest.raises(Error, match=r"^--chat-template-kwargs .*: a JSON object is needed, as in "):
            parse_values("--chat-template-kwargs", text)
    assert budget_values(0) == {"enable_thinking": False, "thinking": False}
    assert budget_values(-1) == budget_values(100) == {}
    assert json.dumps(parse_values("-", '{"a": [1]}')) == '{"a": [1]}'


def test_what_a_template_leaves_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, and not what only looks otherwise: white space at the ends."""
    path = with_template("{{ messages[-1].content | trim }}", tmp_path / "m.gguf")
    monkeypatch.setattr("sys.stdin", io.StringIO("  Tom had a dog \nThe sun\nLily\n"))
    assert cli.run(["run", "-m", str(path), "-i", "-n", "3", "--temp", "0", "--no-timings"]) == 0
    assert capsys.readouterr().err == "the chat template does not print all that user and assistant said\n"
