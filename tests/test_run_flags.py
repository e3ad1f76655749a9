"""Flags of `run`, and of metadata in all commands: what each changes, and what is said about bad ones."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from test_dialect import with_template

import graphsched
from graphsched.cli import main as cli
from graphsched.gguf.copy import changed_metadata, write_copy
from graphsched.gguf.loader import open_model
from graphsched.gguf.override import parse_overrides
from graphsched.session.model import DEFAULT_MODEL
from graphsched.text.answers import Marks
from graphsched.text.chat_options import ChatOptions
from graphsched.text.thinking import Budget, Thinking

Run = Callable[..., tuple[int, str, str]]
GREEDY = ("--temp", "0", "--no-timings")
QUIET = ("--temp", "0", "-q")
THINKS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] <think>\n{# </think> #}"
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(*args: str) -> tuple[int, str, str]:
        return cli.run(args), *capsys.readouterr()

    return with_args


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def changed(path: Path, *rules: str) -> Path:
    """The embedded model with other metadata."""
    with open_model(DEFAULT_MODEL) as file:
        keys = changed_metadata(file, list(parse_overrides(rules)))[0]
        write_copy(file, path, keys, list(file.tensors.values()))
    return path


# ---- metadata ----


@pytest.mark.parametrize(
    "args",
    [
        ("run", "-n", "1", "-q", "--temp", "0"),
        ("bench", "-p", "2", "-n", "1", "-r", "1", "--no-warmup"),
        ("sweep-bench", "-c", "8", "-ub", "8", "-n", "1"),
        ("batched-bench", "-npp", "2", "-ntg", "1", "-npl", "2"),
        ("plan",),
        ("profile", "-p", "2", "-n", "1", "-r", "1"),
        ("inspect", str(DEFAULT_MODEL)),
        ("tokenize", "-p", "a"),
        ("quantize", str(DEFAULT_MODEL), "COPY", "--dry-run"),
    ],
    ids=lambda args: args[0],
)
def test_every_command_reads_metadata_instead_of_the_file_s(run: Run, args: tuple[str, ...]) -> None:
    """A value that cannot be is the error of whoever reads it; a rule that is none is an error everywhere."""
    code, out, err = run(*args, "--override-kv", "tokenizer.ggml.bos_token_id=int:1")
    assert (code, "without effect" in err) == (0, False)
    assert out
    for rule, sentence in {
        "a": "--override-kv a: KEY=TYPE:VALUE is needed, TYPE being int, float, bool, str",
        "a=int:x": "--override-kv a=int:x: x is not an integer of 64 bits",
        "a=int:1,a=int:2": "--override-kv a=int:1: key a is given twice",
    }.items():
        assert run(*args, "--override-kv", rule) == (2, "", f"graphsched: {sentence}\n")


def test_a_rule_that_nothing_reads_is_named(run: Run) -> None:
    for args in (("run", "-n", "0", *GREEDY), ("plan",), ("bench", "-p", "1", "-n", "0", "-r", "1")):
        _, _, err = run(*args, "--override-kv", "genral.name=str:x,general.name=str:y")
        assert err == "hint: without effect: --override-kv genral.name=str:x\n"


def test_metadata_of_a_library_s_session() -> None:
    session = graphsched.load(override_kv="general.name=str:other", n_ctx=8)
    assert session.model.name == "other"
    with pytest.raises(graphsched.Error, match=r"^override_kv a: KEY=TYPE:VALUE is needed"):
        graphsched.load(override_kv="a")
    with pytest.raises(graphsched.Error, match=r"^override_kv has 3, texts such as"):
        graphsched.load(override_kv=[3])


def test_plans_of_different_metadata_are_compared(run: Run) -> None:
    code, out, _ = run("plan", "--vs", "--override-kv qwen3moe.expert_used_count=int:1", "--json")
    assert code == 0
    assert json.loads(out)


@pytest.mark.parametrize("rule", ["tokenizer.ggml.model=str:none", "tokenizer.ggml.model=str:wordpiece"])
def test_what_needs_no_text_needs_no_tokenizer(run: Run, tmp_path: Path, rule: str) -> None:
    model = str(changed(tmp_path / "m.gguf", rule))
    for args in (
        ("bench", "-p", "2", "-n", "1", "-r", "1", "-o", "csv"),
        ("sweep-bench", "-c", "8", "-ub", "8", "-n", "1"),
        ("batched-bench", "-npp", "2", "-ntg", "1", "-npl", "2"),
        ("profile", "-p", "2", "-n", "2", "-r", "1", "--csv"),
        ("plan", "--json"),
    ):
        code, out, err = run(*args, "-m", model)
        assert (code, err) == (0, ""), args
        assert out
    assert run("inspect", model)[0] == 0
    code, out, err = run("run", "-m", model, *QUIET)
    assert (code, out) == (2, "")
    assert err.startswith("graphsched: m.gguf: key tokenizer.ggml.model is the unknown tokenizer ")
    assert (
        run("run", "-m", model, "-n", "1", *QUIET, "--override-kv", "tokenizer.ggml.model=str:llama")[0] == 0
    )


def test_a_vocabulary_of_another_model(run: Run, tmp_path: Path) -> None:
    """Is an error before anything is computed, and no matter to what needs no text."""
    with open_model(DEFAULT_MODEL) as file:
        tokens = "tokenizer.ggml.tokens"
        keys = dict(file.metadata) | {tokens: file.get(tokens, tuple)[:-1]}
        write_copy(file, tmp_path / "m.gguf", keys, list(file.tensors.values()))
    model = str(tmp_path / "m.gguf")
    for args in (("run", *QUIET), ("perplexity", "-f", str(Path(__file__)))):
        code, out, err = run(*args, "-m", model)
        assert (code, out) == (2, "")
        assert err == (
            "graphsched: m.gguf: key tokenizer.ggml.tokens has 1023 tokens, token_embd.weight has 1024 rows\n"
        )
    assert run("bench", "-p", "2", "-n", "0", "-r", "1", "-m", model)[0] == 0


def test_a_second_bos_is_said(run: Run) -> None:
    assert "bos" not in run("run", "-n", "0", *GREEDY, "-p", "Lily")[2].lower()
    _, out, err = run("run", "-n", "0", *GREEDY, "-p", "<s>Lily")
    assert out == "<s>Lily\n"
    assert err.startswith("hint: the prompt begins with its own BOS, and so there are two; --override-kv")
    rule = err.split("two; ")[1].removesuffix(" leaves one out\n").split()
    assert run("run", "-n", "0", *GREEDY, "-p", "<s>Lily", *rule)[2] == ""


def test_a_prompt_is_not_closed(run: Run) -> None:
    plain = run("run", "-n", "8", *QUIET, "-p", "Lily went")
    closed = run(
        "run", "-n", "8", *QUIET, "-p", "Lily went", "--override-kv", "tokenizer.ggml.add_eos_token=bool:true"
    )
    assert plain == closed


# ---- prompts ----


def test_what_is_piped_is_the_prompt(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(content: bytes, *args: str) -> str:
        (tmp_path / "in").write_bytes(content)
        with (tmp_path / "in").open() as file:
            monkeypatch.setattr("sys.stdin", file)
            return run(*args)[1]

    nothing = ("run", "-n", "0", "-q")
    assert given(b"The dog\n", *nothing) == "The dog\n"
    assert given(b"\xef\xbb\xbfThe\r\ndog\r\n", *nothing) == "The\ndog\n"
    assert given(b"The dog", *nothing, "-p", "Lily") == "Lily\n"
    assert given(b"", *nothing) == "Once upon a time\n"
    assert given(b"a\\nb", *nothing) == "a\\nb\n"  # escapes are for what is typed
    assert given(b"The dog", "tokenize", "--ids") == run("tokenize", "--ids", "-p", "The dog")[1]
    reader, writer = os.pipe()
    os.write(writer, b"Piped")
    os.close(writer)
    with os.fdopen(reader) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        assert run(*nothing)[1] == "Piped\n"
    with open(os.devnull) as null:
        monkeypatch.setattr("sys.stdin", null)
        assert run(*nothing)[1] == "Once upon a time\n"


def test_bad_text_on_standard_input(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(b"a\xff")
    with (tmp_path / "in").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert run("run", "-q") == (2, "", "graphsched: -: is not UTF-8 text, byte 1 is 0xff\n")


def test_a_prompt_can_be_left_out_and_listed(run: Run) -> None:
    whole = run("run", "-n", "6", *QUIET, "-p", "Lily went")[1]
    assert run("run", "-n", "6", *QUIET, "-p", "Lily went", "--no-display-prompt")[1] == whole.removeprefix(
        "Lily went"
    )
    assert run("run", "-n", "6", *QUIET, "-p", "Lily went", "--display-prompt")[1] == whole
    _, out, err = run("run", "-n", "6", *GREEDY, "-p", "Lily went", "--verbose-prompt")
    assert out == whole
    listed = run("tokenize", "-p", "Lily went")[1]
    assert err == f"{len(listed.splitlines())} tokens in the prompt\n{listed}"


def test_a_text_that_ends_a_generation(run: Run) -> None:
    whole = run("run", "-n", "40", *QUIET)[1]
    assert whole.startswith("Once upon a time, ")
    end = whole.index("little") + 4
    assert run("run", "-n", "40", *QUIET, "-r", "little"[:4])[1] == whole[:end] + "\n"
    assert (
        run("run", "-n", "40", *QUIET, "-r", "zzz", "-r", "e li")[1]
        == whole[: whole.index("e li") + 4] + "\n"
    )
    assert run("run", "-n", "40", *QUIET, "-r", "\\x6citt")[1] == whole[:end] + "\n"
    assert run("run", "-n", "40", *QUIET, "-r", "Once")[1] == whole  # the prompt does not count
    assert run("run", "-r", "")[::2] == (2, "graphsched: -r is empty, a text is needed\n")
    assert run("run", "-r", "a", "-r", "")[::2] == (2, "graphsched: -r is empty, a text is needed\n")
    assert run("run", "-r")[::2] == (2, "graphsched: -r needs a value\n")


def test_the_reason_that_a_text_ended() -> None:
    session = graphsched.load(n_ctx=64)
    text = "".join(
        session.generate("Lily went", n_predict=40, sampling=graphsched.SamplingOptions(0), stop=["."])
    )
    assert text.endswith(".")
    assert (text.count("."), session.stop_reason) == (1, "stop")
    assert session.tokenizer.decode(session.sampled, continuing=True).startswith(text)
    again = session.generate("Lily went", n_predict=40, sampling=graphsched.SamplingOptions(0), stop=".")
    assert "".join(again).endswith(".")
    with pytest.raises(graphsched.Error, match=r"^stop is empty"):
        next(session.generate("Lily", stop=["a", ""]))


def test_control_tokens_show_if_asked_for(run: Run) -> None:
    plain = run("run", *QUIET, "-p", "Lily went", "-n", "300")[1]
    shown = run("run", *QUIET, "-p", "Lily went", "-n", "300", "-sp")[1]
    assert shown == plain.removesuffix("\n") + "</s>\n"


@pytest.mark.parametrize("flag", ["--special", "--verbose-prompt"])
def test_a_flag_without_a_value_takes_none(run: Run, flag: str) -> None:
    assert run("run", f"{flag}=2") == (2, "", f"graphsched: {flag} takes no value\n")


def test_a_drawn_seed_is_said_and_can_be_given_again(run: Run) -> None:
    plain = ("run", "-n", "12", "--no-timings", "-p", "Lily")
    args = (*plain, "--temp", "1.5")
    _, text, err = run(*args)
    name, seed = err.split()
    assert name == "seed"
    assert run(*args, "-s", seed) == (0, text, "")
    assert run(*args, "-q")[2] == ""
    assert run(*plain, "--temp", "0")[2] == ""  # nothing is drawn


# ---- chats ----


@pytest.mark.parametrize("flags", [("-cnv",), ("--conversation",), ("-no-cnv", "-i"), ("-cnv", "1")])
def test_flags_that_begin_a_chat(run: Run, say: Callable[[str], None], flags: tuple[str, ...]) -> None:
    say("Lily went\nAnd then\n")
    code, out, _ = run("run", *flags, "-n", "3", *QUIET)
    assert (code, len(out.splitlines())) == (0, 2)


@pytest.mark.parametrize("flags", [("-no-cnv",), ("-i", "-no-cnv"), ("-cnv", "0"), ("--no-conversation",)])
def test_flags_that_end_it(run: Run, flags: tuple[str, ...]) -> None:
    assert run("run", *flags, "-n", "0", *QUIET) == (0, "Once upon a time\n", "")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("-cnv", "2"), "-cnv is 2, 0 or 1 is needed"),
        (("-sys", "x", "-no-cnv"), "-sys is for a chat, which is -i"),
        (
            ("--chat-template", "chatm"),
            "--chat-template chatm: is neither a template nor the name of one; there are",
        ),
        (("--chat-template", ""), '--chat-template "": is neither a template nor the name of one'),
        (
            ("--chat-template", "llama 2"),
            "--chat-template llama 2: is neither a template nor the name of one",
        ),
        (("--chat-template-file", "/nope"), "--chat-template-file /nope: no such file or directory"),
        (("--chat-template-file", "/"), "--chat-template-file /: is a directory"),
        (("--chat-template-file", os.devnull), f"--chat-template-file {os.devnull}: is empty"),
        (("--chat-template-kwargs", "{"), "--chat-template-kwargs {: a JSON object is needed, as in"),
        (("--chat-template-kwargs", "[]"), "--chat-template-kwargs []: a JSON object is needed, as in"),
        (("--chat-template-kwargs", "a=b"), "--chat-template-kwargs a=b: a JSON object is needed, as in"),
        (
            ("--reasoning-budget", "-2"),
            "--reasoning-budget is -2, an integer from 0 up or -1 (no limit) is needed",
        ),
        (
            ("--reasoning-budget", "x"),
            "--reasoning-budget is x, an integer from 0 up or -1 (no limit) is needed",
        ),
        (("--reasoning-budget", "1.5"), "--reasoning-budget is 1.5, an integer from 0 up or -1"),
        (
            ("--chat-template", "chatml", "--chat-template-file", __file__),
            "--chat-template and --chat-template-file are both given, there is one template",
        ),
    ],
)
def test_bad_flags_of_a_chat(run: Run, flags: tuple[str, ...], sentence: str) -> None:
    code, out, err = run("run", *flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"graphsched: {sentence}")
    assert err.count("\n") == 1


def test_a_template_takes_the_place_of_the_model_s(
    run: Run, say: Callable[[str], None], tmp_path: Path
) -> None:
    """By its text or from a file; the prompt that the model gets is listed."""
    (tmp_path / "t.jinja").write_bytes(b"\xef\xbb\xbf{{ messages[-1].content }} {{ name }}\r\n")
    chats = [
        ("--chat-template", "{{ messages[-1].content }} {{ name }}"),
        ("--chat-template-file", str(tmp_path / "t.jinja")),
    ]
    for flags in chats:
        say("Tom\n")
        values = '{"name": "met"}'
        _, _, err = run(
            "run", "-i", *flags, "--chat-template-kwargs", values, "-n", "1", *GREEDY, "--verbose-prompt"
        )
        listed = run("tokenize", "-p", "Tom met")[1]
        assert err == f"{len(listed.splitlines())} tokens in the prompt\n{listed}"


def test_what_has_no_effect_is_named(run: Run, say: Callable[[str], None]) -> None:
    _, _, err = run("run", "-n", "0", *GREEDY, "--chat-template", "chatml", "--reasoning-budget", "0", "-st")
    assert err == (
        "hint: without effect: --chat-template, --reasoning-budget, -st, as they are for a chat, which is -i\n"
    )
    say("")
    flags = ("--chat-template", "{{ messages[-1].content }}", "--chat-template-kwargs", '{"a": 1, "role": 2}')
    _, _, err = run("run", "-i", *flags, "--reasoning-budget", "0", *GREEDY)
    assert err.splitlines() == [
        "hint: the chat template does not ask for a, role",
        "hint: --reasoning-budget has no effect, neither template nor vocabulary have marks of thoughts",
    ]


def test_one_answer(run: Run, say: Callable[[str], None]) -> None:
    say("\nTom\nLily\n")
    flags = ("-i", "-st", "--chat-template", "{{ messages[-1].content }}", "-n", "3", *QUIET)
    assert len(run("run", *flags)[1].splitlines()) == 1
    code, out, err = run("run", *flags, "-p", "Tom went")
    assert (code, len(out.splitlines()), err) == (0, 1, "")


def test_a_system_prompt_from_a_file(run: Run, say: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_bytes(b"\xef\xbb\xbfTom\r\nwent\r\n")
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    found = []
    for flags in (("-sys", "Tom\nwent"), ("-sysf", str(tmp_path / "s.txt"))):
        say("home\n")
        found.append(
            run("run", "-i", "--chat-template", template, *flags, "-n", "9", *GREEDY, "--verbose-prompt")
        )
    assert found[0] == found[1]
    assert run("run", "-i", "-sysf", "/nope") == (2, "", "graphsched: /nope: no such file or directory\n")
    assert run("run", "-sysf", "/nope") == (2, "", "graphsched: -sysf is for a chat, which is -i\n")
    sentence = "graphsched: there is one system prompt, -sys or -sysf\n"
    assert run("run", "-i", "-sysf", "/nope", "-sys", "x") == (2, "", sentence)


def test_a_byte_order_mark_is_not_said(run: Run, say: Callable[[str], None]) -> None:
    for text in ("Tom\n", "\ufeffTom\n"):
        say(text)
        flags = ("--chat-template", "{{ messages[-1].content }}", "-n", "1", *GREEDY, "--verbose-prompt")
        assert run("run", "-i", *flags)[2].partition("\n")[2] == run("tokenize", "-p", "Tom")[1]


def test_a_reverse_prompt_ends_an_answer(run: Run, say: Callable[[str], None]) -> None:
    say("Once upon a time\nOnce upon a time\n")
    flags = ("--chat-template", "{{ messages[-1].content }}", "-r", "little", "-n", "50", *QUIET)
    code, out, _ = run("run", "-i", *flags)
    assert code == 0
    assert [line.endswith("little") for line in out.splitlines()] == [True, True]


def test_thoughts_end_when_their_budget_is_used_up(
    run: Run, say: Callable[[str], None], tmp_path: Path
) -> None:
    model = str(with_template(THINKS, tmp_path / "m.gguf"))

    def answer(*flags: str) -> str:
        say("Lily went\n")
        code, out, err = run("run", "-m", model, "-i", "-n", "60", *GREEDY, *flags)
        assert (code, err) == (0, "")
        return out

    free = answer()
    assert "</think>" not in free
    assert answer("--reasoning-budget", "-1") == free
    for budget in (1, 5):
        thoughts, mark, rest = answer("--reasoning-budget", str(budget)).partition("\n</think>\n\n")
        assert mark
        assert rest.strip()
        tokens = graphsched.load(n_ctx=8).tokenizer
        ids = tokens.encode(free, add_special=False)
        assert free.startswith(thoughts)
        assert len(tokens.encode(thoughts, add_special=False, continuing=True)) <= budget < len(ids)


def test_no_thoughts_is_told_to_the_template(run: Run, say: Callable[[str], None]) -> None:
    """Unless a value that is given by name says otherwise."""
    template = (
        "{{ messages[-1].content }}{% if enable_thinking is false %} quickly{% endif %}{# <think></think> #}"
    )
    for flags, prompt in (
        ((), "Tom quickly"),
        (("--chat-template-kwargs", '{"enable_thinking": true}'), "Tom"),
    ):
        say("Tom\n")
        budget = ("--reasoning-budget", "0", *flags)
        _, _, err = run(
            "run", "-i", "--chat-template", template, *budget, "-n", "1", *GREEDY, "--verbose-prompt"
        )
        assert err.partition("\n")[2] == run("tokenize", "-p", prompt)[1]


class Scripted:
    """Chooses the tokens of a text."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def sample(self, logits: object) -> int:
        return self.ids.pop(0)

    def accept(self, token: int) -> None: ...


@pytest.mark.parametrize(
    ("said", "expected", "is_open"),
    [
        ("<think>a b c d</think>yes", "<think>a b\n</think>\n\n c d</think>yes", False),
        ("a b c d</think>yes", "a b\n</think>\n\n c d</think>yes", True),
        ("<think>a</think>yes", "<think>a</think>yes", False),
        ("no thoughts at all here", "no thoughts at all here", False),
        ("<think>a</think>b <think>c d e", "<think>a</think>b <think>c \n</think>\n\nd e", False),
    ],
)
def test_where_thoughts_are_cut(said: str, expected: str, is_open: bool) -> None:
    """Each character is one token here, white space included; three of them may be thought in all."""
    tokenizer = graphsched.load(n_ctx=8).tokenizer
    ids = [i for c in said for i in tokenizer.encode(f"x{c}", add_special=False)[-1:]]
    budget = Budget(3, Marks("<think>", "</think>"), is_open)
    thinking = Thinking(Scripted(ids), budget, tokenizer)
    out = []
    while ids:
        out.append(thinking.sample(None))  # type: ignore[arg-type]  # nothing looks at the logits
        thinking.accept(out[-1])
    assert tokenizer.decode(out, continuing=True) == expected


def test_channels_are_cut_with_their_own_marks() -> None:
    tokenizer = graphsched.load(n_ctx=8).tokenizer
    said = "<|channel|>analysis<|message|>hmmmm"
    ids = [i for c in said for i in tokenizer.encode(f"x{c}", add_special=False)[-1:]]
    thinking = Thinking(Scripted(ids), Budget(2, Marks(has_channels=True)), tokenizer)
    out = []
    while ids:
        out.append(thinking.sample(None))  # type: ignore[arg-type]  # nothing looks at the logits
        thinking.accept(out[-1])
    text = tokenizer.decode(out, continuing=True)
    assert text == "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>mmm"


def test_options_of_a_chat_as_values() -> None:
    options = ChatOptions(chat_template="{{ x }}", chat_template_kwargs={"a": 1}, reasoning_budget=0)
    assert options.all_values == {"enable_thinking": False, "thinking": False, "a": 1}
    assert options.given == ("chat_template", "chat_template_kwargs", "reasoning_budget")
    assert ChatOptions().given == ()
    assert ChatOptions().given_template is None


# ---- grammars ----

AGE = '{"type": "object", "properties": {"age": {"enum": [3, 4]}}, "required": ["age"], "additionalProperties": false}'


@pytest.mark.parametrize("ends", [(), ("--ignore-eos",)])
def test_json_of_a_schema(run: Run, tmp_path: Path, ends: tuple[str, ...]) -> None:
    pytest.importorskip("llguidance")
    (tmp_path / "a.json").write_text(AGE + "\n")
    args = ("run", "-p", "Once", "-n", "30", *QUIET, "--no-display-prompt", *ends)
    for flags in (("-j", AGE), ("--json-schema-file", str(tmp_path / "a.json"))):
        code, out, err = run(*args, *flags)
        assert (code, err) == (0, "")
        assert json.loads(out)["age"] in (3, 4)


def test_a_grammar_in_a_chat_begins_behind_thoughts(
    run: Run, say: Callable[[str], None], tmp_path: Path
) -> None:
    pytest.importorskip("llguidance")
    (tmp_path / "a.gbnf").write_text('root ::= "yes" | "no"\n')
    for flags in (("--grammar", 'root ::= "yes" | "no"'), ("--grammar-file", str(tmp_path / "a.gbnf"))):
        say("")
        args = ("-i", "-st", "-p", "Hi", "--chat-template", THINKS, "--reasoning-budget", "4")
        code, out, _ = run("run", *args, *QUIET, *flags)
        thoughts, mark, answer = out.partition("</think>")
        assert (code, mark) == (0, "</think>")
        assert thoughts.strip()
        assert answer.split() in (["yes"], ["no"])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ("--grammar", "root ::= foo"),
            "--grammar root ::= foo: the grammar cannot be used: Rule 'foo' not found",
        ),
        (("-j", "3"), '-j 3: a JSON object is needed, as in {"type": "object"}'),
        (("-jf", "no.json"), "-jf no.json: no such file or directory"),
        (
            ("-j", "{}", "--grammar", 'root ::= "a"'),
            "--grammar and --json-schema are both given, a text is held to one of them",
        ),
    ],
)
def test_grammars_that_cannot_be_used(run: Run, flags: tuple[str, ...], sentence: str) -> None:
    pytest.importorskip("llguidance")
    assert run("run", "-n", "1", *flags) == (2, "", f"graphsched: {sentence}\n")
