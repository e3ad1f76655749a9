"""The command line: flags, what goes where, bad input in one sentence, Ctrl-C, a closed pipe, chat."""

import csv
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import click
import pytest
from options_page import page
from processes import child, on_terminal
from shared import shared

import graphsched
from graphsched.cli import flags
from graphsched.cli import main as cli
from graphsched.cli.arguments import Command
from graphsched.cli.interactive import Chat
from graphsched.cli.texts import unescaped
from graphsched.errors import OptionError
from graphsched.graph.rewrites.rules import RULES
from graphsched.option import Option
from graphsched.session.options import KEYWORDS, SessionOptions, session_options
from graphsched.session.switches import FUSIONS
from graphsched.text.sampling import SamplingOptions

Run = Callable[..., tuple[int, str, str]]
PROGRAM: Final = (sys.executable, "-m", "graphsched")
SHORT: Final = ("-n", "3", "--temp", "0")
SERVING: Final = {**flags.SERVER, **flags.SERVICE}
CTRL_C_MS: Final = 50
PATIENCE_S: Final = 300  # with a process that shares its cores with other work
needs_signals = pytest.mark.skipif(os.name == "nt", reason="this test sends POSIX signals")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: exit code, standard output, standard error."""

    def with_args(*args: str) -> tuple[int, str, str]:
        code = cli.run(args)
        return code, *capsys.readouterr()

    return with_args


def test_help_imports_nothing_slow() -> None:
    slow = ("numba", "numpy", "gguf", "rich", "jinja2", "llvmlite")
    program = "import sys; from graphsched.cli import main as cli; cli.run(sys.argv[1:]); "
    program += f"print([m for m in {slow} if m in sys.modules])"
    for args in (["--help"], ["run", "--help"], ["bench", "--help"], ["--version"]):
        out = subprocess.run(
            [sys.executable, "-c", program, *args], capture_output=True, text=True, check=True
        )
        assert out.stdout.splitlines()[-1] == "[]", args


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"graphsched {graphsched.__version__}\n", "")


def test_without_arguments_it_helps(run: Run) -> None:
    assert run() == run("--help")
    assert "generate text" in run()[1].lower()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_an_example(run: Run, name: str) -> None:
    code, out, err = run(name, "--help")
    assert (code, err) == (0, "")
    assert f"Example: graphsched {name}" in " ".join(out.split())


# ---- flags ----


@pytest.mark.parametrize(
    ("field", "option"),
    [*flags.OPTIONS.items(), *flags.SAMPLING.items(), *flags.CHAT.items(), *SERVING.items()],
    ids=lambda x: x if x is str else "",
)
def test_a_declaration_is_the_flag_with_its_help(run: Run, field: str, option: Option) -> None:
    is_of_run = field in {**flags.ONE_SEQUENCE, **flags.SAMPLING, **flags.CHAT}
    command = "run" if is_of_run else "serve" if field in SERVING else "plan"
    help_of = " ".join(run(command, "--help")[1].split())
    assert ", ".join((*option.flags, *option.off)) in help_of
    assert option.text in help_of


def test_a_flag_and_an_option_is_declared_once() -> None:
    options = [*flags.SESSION.items(), *flags.SAMPLING.items(), *flags.CHAT.items(), *SERVING.items()]
    names = [name for field, option in options for name in (field, *option.flags, *option.off)]
    assert sorted(names) == sorted(set(names))


def test_fusions_are_switched_by_the_names_of_their_rules() -> None:
    assert set(FUSIONS) == {rule.switch for rule in RULES}


def test_docs_list_the_options() -> None:
    """Written by tools/options_page.py."""
    assert (Path(__file__).parents[1] / "docs" / "options.md").read_text() == page()


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({"n_ubatch": 8, "overrides": "exps=CPU"}, {"n_ubatch": "8", "overrides": ("exps=CPU",)}),
        ({"tensor_split": (3, 1), "fmoe": False}, {"tensor_split": "3/1", "fmoe": "0"}),
        ({"offload_policy": {26, 27}}, {"offload_policy": ("26,0", "27=0")}),
        ({"devices": "sim:rtx4090", "rtr": "on"}, {"devices": ("sim:rtx4090",), "rtr": "1"}),
        ({"mmap": True, "kv_offload": False, "n_threads": 0}, {"kv_offload": "0", "n_threads": "-1"}),
        ({"cpu_mask": {0}}, {"cpu_mask": "0x1"}),
        ({"off": {"fmoe"}}, {"off": ("fmoe", "hoist"), "hoist": True}),
    ],
)
def test_text_and_values_are_the_same_options(given: dict[str, Any], typed: dict[str, Any]) -> None:
    options = session_options(**given)
    assert options == session_options(**typed) != SessionOptions()
    assert replace(options, n_ctx=options.n_ctx) == options  # values pass the door once more
    assert hash(options) == hash(session_options(**typed))


@pytest.mark.parametrize(
    ("flag", "field", "value", "what"),
    [
        ("-ub", "n_ubatch", "0", "is 0, an integer from 1 to 1048576 is needed"),
        ("-op", "offload_policy", "26", "26: no 0 or 1 follows 26"),
        ("-ot", "overrides", "exps", "exps needs a pattern and a buffer type, as in exps=CPU"),
        ("-ts", "tensor_split", "3,", "is 3,, numbers such as 3,1 are needed"),
        ("-ts", "tensor_split", "0,0", "is 0,0, one share above 0 is needed"),
        ("-C", "cpu_mask", "zz", "is zz, a hexadecimal number such as 0x3 is needed"),
        ("-rtr", "rtr", "2", "is 2, 0, 1 or auto is needed"),
        ("-sm", "split_mode", "row", "is row, layer or none is needed"),
        ("-op-rule", "offload_rule", "mine", "is mine, no package installs a rule of that name"),
    ],
)
def test_errors_name_the_flag_or_the_keyword(run: Run, flag: str, field: str, value: str, what: str) -> None:
    assert run("plan", flag, value) == (2, "", f"graphsched: {flag} {what}\n")
    keyword: dict[str, Any] = {field: value}
    with pytest.raises(OptionError) as caught:
        graphsched.load(**keyword)
    assert str(caught.value) == f"{field} {what}"


GIVEN: Final[tuple[Any, ...]] = (
    None,
    object(),
    5,
    -7,
    1.5,
    True,
    "",
    "x",
    "0",
    b"x",
    [],
    {},
    (None,),
    ("x",),
    {"x": 1},
    [[]],
)


def sentence(**given: Any) -> str:
    """What is wrong with options, empty if nothing is."""
    try:
        options = session_options(**given)
    except OptionError as e:
        return str(e)
    return "" if replace(options) == options else "they change at the door"


@pytest.mark.parametrize("keyword", sorted(KEYWORDS - {"poison", "streams"}))
def test_whatever_is_given_for_a_keyword_ends_in_options_or_one_sentence(keyword: str) -> None:
    said = [s for value in GIVEN if (s := sentence(**{keyword: value}))]
    assert said
    assert [s for s in said if not s.startswith(f"{keyword} ") or "\n" in s] == []


def test_what_does_not_fit_the_devices_names_the_flag(run: Run) -> None:
    line = ["plan", "--device", "sim:rtx4090"]
    assert run(*line, "-mg", "1")[2] == "graphsched: -mg is 1, an integer from 0 to 0 is needed\n"
    assert run(*line, "-ts", "1,2")[2] == "graphsched: -ts is 1,2, shares of 2 devices; there is sim0\n"
    assert run(*line, "-ts", "0")[2] == "graphsched: -ts is 0, one share above 0 is needed\n"
    assert run(*line, "-ts", "0,1")[2] == "graphsched: -ts is 0,1, shares of 2 devices; there is sim0\n"
    assert run(*line, "-ot", "a=x")[2] == "graphsched: -ot a=x: no buffer type x; there are CPU, sim0\n"


def with_flags(*names: str) -> click.Command:
    @click.command(cls=Command)
    @click.option("-ub", type=int)
    @click.option("-n", "--predict", type=int)
    @click.option("-ngl", type=int)
    @click.option("-v", is_flag=True)
    def command(**values: object) -> None:
        click.echo(json.dumps(values))

    return command


@pytest.mark.parametrize(
    ("args", "ub", "n"),
    [
        (["-ub", "5"], 5, None),
        (["-ub=5", "-n=-1"], 5, -1),
        (["-n", "-1", "-ub", "5"], 5, -1),
        (["--predict", "7"], None, 7),
        (["--predict=7", "-v"], None, 7),
    ],
)
def test_flags_with_several_letters(
    capsys: pytest.CaptureFixture[str], args: list[str], ub: int | None, n: int | None
) -> None:
    with_flags().main(args, standalone_mode=False)
    values = json.loads(capsys.readouterr().out)
    assert (values["ub"], values["predict"]) == (ub, n)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["-nlg", "9"], "no such option -nlg; did you mean -ngl?"),
        (["-n5"], "no such option -n5; did you mean -n 5?"),
        (["-vn", "3"], "no such option -vn"),
        (["-nub", "3"], "no such option -nub; did you mean -ub?"),
        (["--pred", "3"], "no such option --pred; did you mean --predict?"),
        (["-v=1"], "-v takes no value"),
        (["-ub"], "-ub needs a value"),
    ],
)
def test_unknown_flags_are_reported_whole(args: list[str], sentence: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        with_flags().main(args, standalone_mode=False)
    assert caught.value.message == sentence


def test_flags_reach_the_session(run: Run) -> None:
    args = (
        "-ub",
        "5",
        "-b",
        "10",
        "-t",
        "1",
        "-c",
        "64",
        "-ctk",
        "f32",
        "-ctv",
        "q8_0",
        "-no-fmoe",
        "--backend",
        "cpu",
    )
    code, _, err = run("run", "-v", *SHORT, *args)
    assert code == 0
    assert "backend cpu, 1 threads, context 64, batch 10, micro-batch 5, cache f32/q8_0, off: fmoe" in err
    assert "graphsched stories: qwen3moe, 2.50M parameters (1.32M active)" in err


@pytest.mark.parametrize(
    ("args", "off"),
    [
        (("-fmoe", "0"), "fmoe"),
        (("-fmoe=0",), "fmoe"),
        (("--no-fmoe", "1"), "fmoe"),
        (("-no-fmoe", "0"), "none"),
        (("-fmoe",), "none"),
        (("-fa", "1", "-rtr", "off", "-fmoe", "1"), "none"),
    ],
)
def test_switches_with_and_without_values(run: Run, args: tuple[str, ...], off: str) -> None:
    code, _, err = run("run", "-v", *SHORT, *args)
    assert code == 0
    assert f"off: {off}" in err


def test_underscores_and_long_names(run: Run) -> None:
    code, _, err = run(
        "run", "-v", *SHORT, "--ctx_size", "64", "--ubatch-size=5", "--threads", "1", "-b", "5"
    )
    assert (code, "context 64, batch 5, micro-batch 5" in err) == (0, True)


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (
            ["-b", "100", "-ub", "64"],
            "hint: -b 100 is no multiple of -ub 64, each full batch ends with 36 tokens",
        ),
        (["-b", "100"], "hint: -b 100 is smaller than -ub 512, so 100 tokens are computed at once"),
        (["-b", "128", "-ub", "64"], None),
    ],
)
def test_batch_hint(run: Run, args: list[str], hint: str | None) -> None:
    code, out, err = run("run", *SHORT, *args)
    assert code == 0
    assert [line for line in err.splitlines() if line.startswith("hint")] == ([hint] if hint else [])
    assert "hint" not in out


# ---- what goes where ----


@pytest.mark.reference
def times(err: str) -> list[str]:
    """The lines of standard error but for that of kernels that had to be compiled."""
    return [line for line in err.splitlines() if not line.startswith("compile ")]


def test_golden_text(run: Run) -> None:
    golden = json.loads(shared("models/stories260K.json").read_text())
    model = str(shared("models/stories260K.gguf"))
    code, out, err = run("run", "-m", model, "-p", golden["prompt"], "-n", "252", "--temp", "0")
    assert (code, out) == (0, golden["greedy_text_256_positions"] + "\n")
    assert [line.split()[0] for line in times(err)] == ["load", "prompt", "generation"]


def test_timings(run: Run) -> None:
    err = run("run", *SHORT, "-p", "Lily went")[2]
    load, prompt, generation = times(err)
    assert re.fullmatch(r"load +[\d.]+ ms", load)
    assert re.fullmatch(r"prompt +[\d.]+ ms +\d+ tokens +[\d.]+ tokens/s", prompt)
    assert re.fullmatch(r"generation +[\d.]+ ms +3 tokens +[\d.]+ tokens/s", generation)


@pytest.mark.parametrize("flag", ["-q", "--quiet", "--no-timings", "--no-perf"])
def test_quiet(run: Run, flag: str) -> None:
    code, out, err = run("run", flag, *SHORT)
    assert (code, err) == (0, "")
    assert out.startswith("Once upon a time")


def test_the_prompt_alone(run: Run) -> None:
    assert run("run", "-q", "-n", "0", "-p", "Two\\nlines") == (0, "Two\nlines\n", "")
    assert run("run", "-q", "-n", "0", "-p", "Two\\nlines", "--no-escape") == (0, "Two\\nlines\n", "")
    assert run("run", "-q", "-n", "0", "-p", "-x") == (0, "-x\n", "")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (r"a\nb\tc\rd", "a\nb\tc\rd"),
        (r"\'\"\\n", "'\"\\n"),
        (r"\x41\xe2\x82\xac", "A€"),
        (r"\xff", "\ufffd"),
        (r"\xzz \q \ end\ ", r"\xzz \q \ end\ "),
    ],
)
def test_escapes(text: str, result: str) -> None:
    assert unescaped(text) == result


def test_prompt_from_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("One\\n\nTwo\n\n", encoding="utf-8", newline="")
    assert run("run", "-q", "-n", "0", "-f", str(path)) == (0, "One\\n\nTwo\n\n", "")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Piped\n")))
    assert run("run", "-q", "-n", "0", "-f", "-") == (0, "Piped\n", "")


def test_same_seed_same_text(run: Run) -> None:
    args = ("run", "-q", "-n", "20", "--temp", "1.5", "-s", "7")
    assert run(*args) == run(*args)
    assert run(*args) != run(*args[:-1], "8")


def test_a_full_context_is_said(run: Run) -> None:
    code, _, err = run("run", "-c", "8", "--ignore-eos")
    assert (code, err.splitlines()[0]) == (0, "the context of 8 tokens is full, a larger one is -c N")


def test_a_prompt_longer_than_the_context(run: Run) -> None:
    code, out, err = run("run", "-c", "4", "-p", "Once upon a time there was a cat")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"graphsched: the context holds 4 tokens: .*; a larger one is -c N\n", err)


# ---- bad input ----

WORDS: Final = "one of f32, f16, bf16, q8_0, q4_0, q5_1, iq4_nl, q8_KV is needed"
BAD: Final = [
    ("run -n -3", "-n is -3, an integer from 0 up or -1 and -2 (no limit) is needed"),
    ("run -n many", "-n is many, an integer from 0 up or -1 and -2 (no limit) is needed"),
    ("run -n 1.5", "-n is 1.5, an integer from 0 up or -1 and -2 (no limit) is needed"),
    ("run --ctx-size -5", "-c is -5, an integer from 1 to 16777216, or 0 for the training context is needed"),
    (
        "run -c 99999999999",
        "-c is 99999999999, an integer from 1 to 16777216, or 0 for the training context is needed",
    ),
    ("run -t -2", "-t is -2, an integer from 0 to 1024 is needed"),
    ("run -t 5000", "-t is 5000, an integer from 0 to 1024 is needed"),
    ("run -b 0", "-b is 0, an integer from 1 to 1048576 is needed"),
    ("run -ub x", "-ub is x, an integer from 1 to 1048576 is needed"),
    ("run -ub", "-ub needs a value"),
    ("run -ctk q9", f"-ctk is q9, {WORDS}"),
    ("run -ctk q6_K", f"-ctk is q6_K, {WORDS}"),
    ("run -ctv q4_1", f"-ctv is q4_1, {WORDS}"),
    ("run --backend gpu", "--backend is gpu, cpu or reference is needed"),
    ("run --temp hot", "--temp is hot, a finite number, 0 and below being greedy is needed"),
    ("run --top-p 2", "--top-p is 2, a number from 0 to 1 (off) is needed"),
    ("run --top-k -1", "--top-k is -1, an integer from 0 (off) up is needed"),
    ("run --repeat-penalty 0", "--repeat-penalty is 0, a number from 0.01 to 100, 1 being off is needed"),
    ("run -s -5", "-s is -5, an integer from -1 up is needed"),
    ("run -m none.gguf", "none.gguf: no such file or directory"),
    ("run -m .", ".: is a directory, a GGUF file is needed"),
    ("run -m prompt.txt", "prompt.txt: not a GGUF file, it starts with the bytes 54 65 78 74"),
    ("run -f none.txt", "none.txt: no such file or directory"),
    ("run -f .", ".: is a directory"),
    ("run -f binary", "binary: is not UTF-8 text, byte 1 is 0xff"),
    ("run -p x -f prompt.txt", "there is one prompt, -p or -f"),
    ("run -sys x", "-sys is for a chat, which is -i"),
    ("run -nlg 9", "no such option -nlg; did you mean -ngl?"),
    ("run -t4", "no such option -t4; did you mean -t 4?"),
    ("run -q=1", "-q takes no value"),
    ("run text", "got unexpected extra argument (text)"),
    ("bench -r 0", "-r is 0, an integer from 1 up is needed"),
    ("bench -p -1", "-p is -1, an integer from 0 up is needed"),
    ("bench -p 0 -n 0", "-p and -n are both 0, there is nothing to measure"),
    ("bench -p 9 -n 20 -c 5", "-c is 5, the longest test needs 20"),
    ("bench -p 9 -c 256,5", "-c is 5, the longest test needs 128"),
    ("bench -o xml", "-o is xml, one of md, csv, json, jsonl, sql is needed"),
    ("bench -p 1,,2", "-p is empty, an integer from 0 up is needed"),
    ("bench -p 8-1", "-p is 8-1, a range that ends before it begins"),
    ("bench -p 1-8+0", "-p is 1-8+0, a range that never ends"),
    ("bench -p 1-8*1", "-p is 1-8*1, a range that never ends"),
    ("bench -p 0-8*2", "-p is 0-8*2, a range that never ends"),
    ("bench -p 1-99999", "-p is 1-99999, a range of more than 10000 values"),
    ("bench -p 1-8/2", "-p is 1-8/2, an integer from 0 up is needed"),
    ("bench -t 1,x", "-t is x, an integer from 0 to 1024 is needed"),
    ("bench -t 1-999 -ub 1-999", "the lists make 998001 combinations, 10000 are possible"),
    ("bench -pg 5", "-pg is 5, two integers from 1 up such as 512,128 are needed"),
    ("bench -gp 5,0", "-gp is 5,0, two integers from 1 up such as 512,128 are needed"),
    ("bench -fmoe=2", "-fmoe is 2, 0 or 1 is needed"),
    ("bench -ctk f16,q9", f"-ctk is q9, {WORDS}"),
    ("bench -m none.gguf,prompt.txt", "none.gguf: no such file or directory"),
    ("run -rtr=2", "-rtr is 2, 0, 1 or auto is needed"),
    ("run -nkvo 0,1", "-nkvo is 0,1, 0 or 1 is needed"),
    ("inspect", "missing argument 'FILE'"),
    ("inspect none.gguf", "none.gguf: no such file or directory"),
    ("inspect --jsn", "no such option --jsn; did you mean --json?"),
    ("ops -nlg", "no such option -nlg"),
    ("rum", "no such command rum; did you mean run?"),
    ("frobnicate", "no such command frobnicate"),
    ("-m x.gguf", "a command comes first, as in graphsched run -m"),
]


@pytest.mark.parametrize(("line", "sentence"), BAD, ids=[line for line, _ in BAD])
def test_bad_input(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompt.txt").write_text("Text")
    Path("binary").write_bytes(b"a\xff")
    assert run(*line.split()) == (2, "", f"graphsched: {sentence}\n")


def test_a_bug_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(cli, "_invoke", broken)
    monkeypatch.delenv("GRAPHSCHED_DEBUG", raising=False)
    sentence = "graphsched: this is a bug, GRAPHSCHED_DEBUG=1 shows where (ValueError: two lines)\n"
    assert run("ops") == (1, "", sentence)
    monkeypatch.setenv("GRAPHSCHED_DEBUG", "1")
    with pytest.raises(ValueError, match="two"):
        run("ops")


def test_no_memory_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object) -> None:
        raise MemoryError("9 EiB")

    monkeypatch.setattr(cli, "_invoke", greedy)
    assert run("run") == (2, "", "graphsched: not enough memory, a smaller context (-c) needs less (9 EiB)\n")


# ---- other commands ----


def test_inspect(run: Run) -> None:
    model = str(Path(graphsched.__path__[0]) / "data" / "stories.gguf")
    code, out, err = run("inspect", model)
    assert (code, err) == (0, "")
    assert re.search(r"^qwen3moe\.context_length +512$", out, re.MULTILINE)
    assert not any(line.endswith(" ") for line in out.splitlines())
    data = json.loads(run("inspect", model, "--json")[1])
    assert (data["architecture"], len(data["tensors"])) == ("qwen3moe", 50)
    assert data["metadata"]["tokenizer.ggml.tokens"]["length"] == 1024


def test_ops(run: Run) -> None:
    rows = {row["number"]: row for row in json.loads(run("ops", "--json")[1])}
    assert set(range(81)) <= set(rows)
    product = rows[26]
    assert (product["name"], product["declared"]) == ("MUL_MAT", True)
    assert "Q4_0" in {t for lowering in product["backends"]["cpu"] for t in lowering.get("w", [])}
    assert "reference" in product["backends"]
    undeclared = [row for row in rows.values() if not row["declared"]]
    assert all(row["backends"] == {} for row in undeclared)
    shown, everything = run("ops")[1], run("ops", "--all")[1]
    assert f"{len(undeclared)} numbers have no op yet, --all lists them" in shown
    assert "CONV_TRANSPOSE_2D" not in shown
    assert re.search(r"50 +CONV_TRANSPOSE_2D +\(not declared\)", everything)
    assert re.search(r"^ *26 +MUL_MAT .*\bw: all +yes$", shown, re.MULTILINE)
    assert re.search(
        r"^ *38 +GET_ROWS .*\bx: all but Q4_0_R8 Q8_0_R8 IQ4_NL_R4 Q8_KV +yes$", shown, re.MULTILINE
    )
    assert re.search(r"^all types of cpu: F32 F16 .*\bIQ2_BN\b", shown, re.MULTILINE)


# ---- chat ----

GREEDY: Final[dict[str, Any]] = {"sampling": SamplingOptions(temperature=0), "n_predict": 12}


def test_chat_answers_each_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Tom had a dog\n\nThe dog \\\nran\n"))
    code, out, err = run("run", "-i", "--temp", "0", "-n", "12", "-p", "Lily went")
    assert (code, out.count("\n"), err.count("\n")) == (0, 3, 3)


def test_what_the_cache_keeps_changes_no_answer() -> None:
    chat = Chat(graphsched.load(), **GREEDY)
    said = ["".join(chat.answer(text)) for text in ("Lily went to the park", "Tom had a dog", "The sun")]
    assert chat.session.timings.prompt_tokens < 40  # of a conversation of about 60
    chat.session.reset()
    chat.restart()
    assert ["".join(chat.answer(text)) for text in ("Lily went to the park", "Tom had a dog")] == said[:2]
    chat.session.reset()  # the third with an empty cache
    assert "".join(chat.answer("The sun")) == said[2]


def test_chat_starts_again_when_the_context_is_full(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Tom\nA dog\n"))
    code, out, err = run("run", "-i", "-c", "16", "--temp", "0", "--ignore-eos")
    assert (code, out.count("\n")) == (0, 2)
    assert "the context of 16 tokens is full, the conversation starts again" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("Tom had a very big dog and a cat\n"))
    assert "graphsched" not in run("run", "-i", "-c", "3")[1]


def test_system_prompt() -> None:
    class Recorder:
        """Just enough of a session to see the prompt."""

        n_past, stop_reason = 0, "eog"

        def __init__(self) -> None:
            real = graphsched.load()
            self.tokenizer, self.timings, self.read = real.tokenizer, real.timings, list[int]()
            self.tokenizer.chat_template = None  # ChatML has roles

        def holds(self, n: int) -> bool:
            return True

        def rewind(self, n: int) -> None:
            assert n == 0

        def generate(self, ids: Sequence[int]) -> list[str]:
            self.read = list(ids)
            return ["yes"]

    session: Any = Recorder()
    assert "".join(Chat(session, system="Be kind").answer("Hi")) == "yes"
    assert session.read[0] == session.tokenizer.bos
    text = session.tokenizer.decode(session.read)
    assert text.index("system\nBe kind") < text.index("user\nHi") < text.index("assistant")


# ---- signals and pipes ----


@contextmanager
def started(
    args: Sequence[str], out: Path, program: Sequence[str] = PROGRAM
) -> Iterator["subprocess.Popen[bytes]"]:
    with out.open("wb") as stream, child([*program, *args], stdout=stream, stderr=PIPE) as process:
        yield process


def wait_for(out: Path, size: int) -> None:
    end = time.monotonic() + PATIENCE_S
    while out.stat().st_size < size:
        assert time.monotonic() < end, "nothing is printed"
        time.sleep(0.01)


def interrupted(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """Exit code and standard error after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err.decode()


# Prints the milliseconds of this process from the abort to the end of the command, which its own patience does not cut
# short. Those of other work on the machine do not count.
MEASURED: Final = """
import sys, time
from graphsched.cli import main as cli
from graphsched.session import session
from graphsched.cli import interrupts
interrupts.PATIENCE = 30
abort, times = session.Session.abort, []
session.Session.abort = lambda self: (times.append(time.process_time()), abort(self))
code = cli.run(sys.argv[1:])
print(f"{(time.process_time() - times[0]) * 1e3:.1f}", file=sys.stderr)
sys.exit(code)
"""


@needs_signals
def test_ctrl_c_inside_a_long_prompt(tmp_path: Path) -> None:
    prompt, out = tmp_path / "long.txt", tmp_path / "out"
    prompt.write_text("Once upon a time there was a little girl. " * 3000)
    took = []
    for _ in range(4):  # other work on the machine may delay one
        args = ["run", "-f", str(prompt), "-c", "40000", "-t", "1"]
        with started(args, out, (sys.executable, "-c", MEASURED)) as process:
            wait_for(out, 1)
            time.sleep(0.2)
            code, err = interrupted(process)
        hint, *timings, ms = times(err)  # the context is longer than that of the training
        assert (code, [line.split()[0] for line in timings]) == (130, ["load", "prompt", "generation"])
        assert hint.startswith("hint: the model was trained on 512 tokens")
        assert out.read_bytes().endswith(b" girl. \n")
        took.append(float(ms))
        if took[-1] < CTRL_C_MS:
            return
    pytest.fail(f"Ctrl-C took {took} ms")


@needs_signals
def test_ctrl_c_while_generating(tmp_path: Path) -> None:
    with started(["run", "--ignore-eos", "-c", "60000", "-p", "Once"], tmp_path / "out") as process:
        wait_for(tmp_path / "out", 200)
        code, err = interrupted(process)
    assert code == 130
    assert (tmp_path / "out").read_bytes().endswith(b"\n")
    assert re.search(r"generation +[\d.]+ ms +\d\d+ tokens", err)


STUCK: Final = """
import ctypes, sys
from graphsched.cli.interrupts import Interrupts
with Interrupts() as interrupts:
    interrupts.last_words = lambda: print("last words", file=sys.stderr, flush=True)
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).sleep(60)
"""


@needs_signals
def test_ctrl_c_inside_foreign_code() -> None:
    with child([sys.executable, "-c", STUCK], stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05)
        code, err = interrupted(process)
    assert (code, err) == (130, "last words\n")


@needs_signals
def test_ctrl_c_in_a_chat(tmp_path: Path) -> None:
    """Ends the answer; at the prompt it ends the program."""
    seen = b""
    command = [*PROGRAM, "run", "-i", "-c", "60000", "--ignore-eos", "--no-progress", "-p", "Tom"]
    with on_terminal(command) as (pid, terminal):

        def read_until(found: Callable[[], bool]) -> None:
            nonlocal seen
            while not found():
                assert select.select([terminal], [], [], PATIENCE_S)[0], f"it hangs after {seen!r}"
                try:
                    seen += os.read(terminal, 4096)
                except OSError:  # the other end is closed
                    return

        read_until(lambda: len(seen) > 300)
        os.write(terminal, b"\x03")
        read_until(lambda: b"\n> " in seen)
        os.write(terminal, b"\x03")
        read_until(lambda: False)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert b"Traceback" not in seen
    assert [line.split()[0] for line in seen.splitlines()[-3:]] == [b"load", b"prompt", b"generation"]


@needs_signals
@pytest.mark.parametrize(
    "args",
    [["ops", "--json"], ["run", "-q", "--ignore-eos", "-c", "60000", "-p", "Once"]],
    ids=lambda a: a[0],
)
def test_a_closed_pipe_ends_quietly(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run([*PROGRAM, *args], stdout=writer, stderr=subprocess.PIPE, timeout=PATIENCE_S)
    os.close(writer)
    assert (process.returncode, process.stderr) == (141, b"")


@needs_signals
def test_closed_streams() -> None:
    """With standard error closed nothing of it ends up in the text; with standard output closed nothing fails."""
    command = " ".join(PROGRAM) + " run -n 0 -p Lily"
    closed = subprocess.run(
        ["sh", "-c", f"{command} 2>&-; {command} -q >&-"], capture_output=True, text=True, check=True
    )
    assert (closed.stdout, closed.stderr) == ("Lily\n", "")


# ---- profile ----


@pytest.mark.parametrize(
    ("first", "then", "moves"),
    [
        ("--no-fmoe", "-fmoe 1", ["blk.0.ffn_gate_exps", "not computed"]),
        ("-ot exps=CPU", "-cmoe 0", []),
        ("-cmoe", "-cmoe 0", ["blk.0.ffn_down_exps", "sim0"]),
        ("-ot exps=CPU", "-ot ffn_down_exps=sim0", ["blk.0.ffn_down_exps", "sim0"]),
    ],
)
def test_further_flags_count_behind_the_first(run: Run, first: str, then: str, moves: list[str]) -> None:
    """What the first half turns off the second turns on again; a default value counts as a value."""
    code, out, err = run("plan", "--device", "sim:rtx4090", *first.split(), "--vs", then, "--json")
    assert (code, err) == (0, "")
    moved = {row["name"]: row["to"] or "not computed" for row in json.loads(out)["moved"]}
    assert moved.get(moves[0]) == moves[1] if moves else not moved


def test_profile_as_csv(run: Run) -> None:
    code, out, err = run("profile", "-p", "8", "-n", "2", "-r", "1", "-t", "1", "--csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["phase"] for row in rows} == {"prompt, 8 tokens", "generation"}
    assert {row["table"] for row in rows} == {"op", "label", "overhead"}
    ops = [row for row in rows if row["table"] == "op" and row["phase"] == "generation"]
    assert [int(row["index"]) for row in ops] == list(range(len(ops)))
    assert sum(float(row["fraction"]) for row in ops) == pytest.approx(1)
    assert {"MUL_MAT", "FUSED_ROPE"} <= {row["name"] for row in ops}
