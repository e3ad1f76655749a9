"""Command lines of other engines, pasted as they are: what each flag and value becomes."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
import pasted_lines
import pytest

import graphsched
from graphsched.cli import flags
from graphsched.cli import main as cli
from graphsched.cli.arguments import flags_of
from graphsched.cli.foreign import Kind, table
from graphsched.cli.model_command import COMMANDS, ModelLine
from graphsched.cli.suggestions import edits, likely
from graphsched.run.limits import usable_cores
from graphsched.session.options import SessionOptions, session_options

Run = Callable[..., tuple[int, str, str]]
HINT: Final = "hint: without effect here: "


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: exit code, standard output, standard error."""

    def with_line(line: str, *more: str) -> tuple[int, str, str]:
        code = cli.run((*line.split(), *more))
        return code, *capsys.readouterr()

    return with_line


def command(name: str) -> click.Command:
    found: click.Command = import_module(f"graphsched.cli.commands.{name.replace('-', '_')}").command
    return found


def parsed(name: str, *args: str) -> tuple[dict[str, Any], list[str]]:
    """The parameters that a line gives a command, and the flags without effect."""
    context = command(name).make_context(name, list(args), help_option_names=["-h", "--help"])
    return context.params, context.meta["graphsched.line"].unused


def complaint(name: str, *args: str) -> str:
    with pytest.raises(click.UsageError) as caught:
        parsed(name, *args)
    return caught.value.message


def own() -> dict[str, click.Option]:
    """The flags of all commands that run a model."""
    return {flag: option for name in COMMANDS for flag, option in flags_of(command(name).params).items()}


# ---- the table ----


def test_no_line_of_the_table_is_dead_and_no_name_is_twice() -> None:
    flags = {id(flag): flag for flag in table().values()}
    assert sorted(table()) == sorted(name for flag in flags.values() for name in flag.names)
    assert sorted(set(table()) & set(own())) == []


def test_what_is_taken_is_there() -> None:
    taken = [flag for flag in table().values() if flag.kind is Kind.TAKEN]
    assert taken
    assert [flag.names for flag in taken if flag.words[0] not in {*own(), "--help"}] == []


def test_what_is_refused_has_a_reason() -> None:
    assert [f.names for f in table().values() if f.kind is Kind.REFUSED and not f.why] == []
    assert [f.names for f in table().values() if f.kind is not Kind.REFUSED and f.why] == []


# ---- without effect ----


SERVER: Final = (
    "--host 0.0.0.0 --port 8080 -np 2 --alias x --api-key k --jinja --no-webui --metrics --threads-http 4"
)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_servers_flags_are_named_in_one_line(name: str) -> None:
    params, unused = parsed(name, *SERVER.split(), "-ngl", "7")
    mine = flags_of(command(name).params)
    assert unused == [word for word in SERVER.split() if word.startswith("-") and word not in mine]
    assert params["n_gpu_layers"] in ("7", (("7",),))


def test_sequences_at_once_are_of_commands_that_compute_several() -> None:
    takes = [name for name in COMMANDS if "-np" not in parsed(name, "-np", "2")[1]]
    assert takes == ["serve", "bench", "plan"]
    assert parsed("plan", "--parallel", "4")[0]["n_parallel"] == "4"


def test_a_line_for_a_server() -> None:
    line = (
        "./llama-server -m x.gguf --host 0.0.0.0 --port 8081 -np -1 -c 32768 -cb -fa on --jinja --no-webui --alias x "
        "--api-key k --metrics --slots --slot-save-path /tmp -cram 4096 -sps 0.5 --threads-http 4 -to 600 --embeddings"
    )
    params, unused = parsed("serve", *line.split())
    assert unused == ["-cb", "--jinja", "--threads-http", "--embeddings"]
    assert params["ui"] == "0"
    assert (params["host"], params["port"], params["metrics"]) == ("0.0.0.0", "8081", "1")
    assert (params["slots"], params["timeout"], params["cache_ram"]) == ("1", "600", "4096")


def test_slots_where_nothing_is_said() -> None:
    seen = []

    @click.command()
    @flags.slots
    def command(model: Path | None, options: SessionOptions) -> None:
        seen.append(options.n_parallel)

    for args in ([], ["-np", "-1"], ["-np", "2"]):
        command.main(args, standalone_mode=False)
    assert seen == [4, 4, 2]


def test_the_line_is_a_hint(run: Run) -> None:
    code, out, err = run(f"run -n 0 -p Lily --no-timings {SERVER} --host again")
    assert (code, out) == (0, "Lily\n")
    assert (
        err
        == f"{HINT}--host, --port, -np, --alias, --api-key, --jinja, --no-webui, --metrics, --threads-http\n"
    )
    assert run(f"run -n 0 -p Lily -q {SERVER}") == (0, "Lily\n", "")
    code, out, err = run("plan --json --numa distribute -tb 8")
    assert (code, err) == (0, f"{HINT}--numa, -tb\n")
    assert json.loads(out)


@pytest.mark.parametrize(
    ("args", "unused"),
    [
        ("-np -1", ["-np"]),  # a value that looks like a flag
        ("--prio=-1", ["--prio"]),
        ("-thp", ["-thp"]),
        ("-thp 1", ["-thp"]),  # a switch as llama-bench has it
        ("-sas 0,1 -mqkv", ["-sas"]),
        ("--fit off --fit-margin 512", ["--fit-margin"]),
        ("--fit --jinja", ["--jinja"]),
        ("--context-shift on", ["--context-shift"]),
        ("--webui llamacpp", ["--webui"]),
        ("--webui --fit on --color", ["--webui", "--color"]),
        ("--spec-replace a b", ["--spec-replace"]),  # takes two
        ("--log_colors off", ["--log-colors"]),
        ("--color auto --simple-io", ["--color", "--simple-io"]),
    ],
)
def test_values_go_with_their_flags(args: str, unused: list[str]) -> None:
    params, found = parsed("run", *args.split(), "-ngl", "7")
    assert (params["n_gpu_layers"], found) == ("7", unused)


def some_value(option: click.Option) -> Iterator[str]:
    if not (option.is_flag or option.count):
        yield {"N,N": "1,2", "0|1": "1", "0|1|auto": "1"}.get(option.type.name, "1")


@pytest.mark.parametrize(("name", "other"), list(itertools.permutations(COMMANDS, 2)))
def test_each_command_takes_the_flags_of_the_others(name: str, other: str) -> None:
    mine = flags_of(command(name).params)
    theirs = {f: o for f, o in flags_of(command(other).params).items() if f not in mine}
    args = [word for flag, option in theirs.items() for word in (flag, *some_value(option))]
    assert parsed(name, *args)[1] == list(theirs)


@pytest.mark.parametrize(
    ("name", "args", "unused"),
    [
        ("plan", ["-p", "I believe the meaning of life is"], ["-p I believe the m…"]),
        ("profile", ["-p", "Hello"], ["-p Hello"]),
        ("bench", ["-p", "Hello\nthere", "-n", "-1"], ["-p Hello there", "-n -1"]),
        ("sweep-bench", ["-n", "-2"], ["-n -2"]),
        ("profile", ["-n", "-1"], ["-n -1"]),
    ],
)
def test_a_value_of_another_commands_flag_of_that_name(name: str, args: list[str], unused: list[str]) -> None:
    assert parsed(name, *args)[1] == unused


@pytest.mark.parametrize(
    "args", [("plan", "-p", "51O"), ("bench", "-p", "-1"), ("profile", "-n", "2x"), ("bench", "-p", "1,,2")]
)
def test_a_number_that_is_none_is_an_error(args: tuple[str, ...]) -> None:
    assert "is needed" in complaint(*args)


@pytest.mark.parametrize(
    ("args", "ngl", "unused"),
    [
        (["./build/bin/llama-server", "-ngl", "7", "--port", "80"], "7", ["--port"]),
        (["C:\\llama\\llama-cli.exe", "-ngl=7"], "7", []),
        (["\u2013ngl", "7", "\u2014host=a"], "7", ["--host"]),  # as texts on the web have dashes
        (["\u2014n-gpu-layers", "7"], "7", []),
    ],
)
def test_whole_lines_as_texts_have_them(args: list[str], ngl: str, unused: list[str]) -> None:
    params, found = parsed("run", *args)
    assert (params["n_gpu_layers"], found) == (ngl, unused)


def test_a_line_that_a_space_ends() -> None:
    sentence = "a space behind a backslash ends the line, what follows is missing"
    assert complaint("run", "-ngl", "7", " ") == sentence
    assert complaint("bench", "\u2014frob", "7") == "no such option --frob"
    assert complaint("run", "-ngl", "7", "llama-cli").startswith("Got unexpected extra argument")


# ---- taken ----


@pytest.mark.parametrize(
    ("args", "same"),
    [
        ("--temperature 0.5", "--temp 0.5"),
        ("--temperature=0.5", "--temp 0.5"),
        ("--ot exps=CPU", "-ot exps=CPU"),
        ("-dev none", "--device none"),
        ("-spf sys.txt -okv a.b=int:1", "-sysf sys.txt --override-kv a.b=int:1"),
        ("--no-op-offload", "-op -1,0"),
        ("-nopo 1", "-op -1,0"),
        ("-nopo=0", ""),
        ("--repack on", "-rtr 1"),
        ("--no-repack", "-rtr 0"),
        ("-kvo", "-nkvo 0"),
        ("-if", "-i"),
        ("--mla-attn 1 --attn-max-batch 64", "-mla 1 -amb 64"),
        ("--no-fused-mul-multiadd", "-no-mmad"),
        ("--swa-checkpoints 4 --checkpoint-every-n-tokens 64", "-ctxcp 4 -cpent 64"),
        ("-ctx-ckpt 4 -ctx-ckpt-i 64", "-ctxcp 4 -cpent 64"),
    ],
)
def test_other_names_of_our_flags(args: str, same: str) -> None:
    words = {"on": "1", "off": "0"}
    found, expected = (parsed("run", *line.split()) for line in (args, same))
    assert {k: words.get(v, v) if isinstance(v, str) else v for k, v in found[0].items()} == expected[0]
    assert found[1] == []


# ---- refused ----


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--rpc a:1,b:2", "--rpc: devices are in this machine, none over a network"),
        (
            "--lora-scaled x.gguf 2 -hf a/b:Q4_0 --host h -ngl 9",
            "--lora-scaled: adapters are not applied; -hf: files are not downloaded, -m FILE",
        ),
        (
            "--frob 1 2 --rpc a -nlg 4 -fmoe 7 -v=1",
            "--rpc: devices are in this machine, none over a network; -fmoe is 7, 0 or 1 is needed; -v takes no value; "
            "no such options --frob, -nlg (did you mean -ngl?)",
        ),
        ("-bf x -bf y", "-bf: the prompt is text, -f FILE"),
        ("-bf x.bin", "-bf: the prompt is text, -f FILE"),
        ("--frob -ngl", "-ngl needs a value; no such option --frob"),
    ],
)
def test_all_that_is_refused_is_said_at_once(run: Run, args: str, sentence: str) -> None:
    assert run(f"run {args}") == (2, "", f"graphsched: {sentence}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_with_the_reason(name: str) -> None:
    assert complaint(name, "--image", "x.png") == "--image: only text is read"


# ---- suggestions ----


FLAGS: Final = (
    *("-ngl", "-ub", "-ctv", "-sys", "-ot", "-rtr"),
    *("--hoist", "--main-gpu", "--predict", "--threads", "--no-mmap"),
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("-nlg", "-ngl"),
        ("-bu", "-ub"),
        ("-nub", "-ub"),
        ("-sy", "-sys"),
        ("--thread", "--threads"),
        ("--theards", "--threads"),
        ("--pred", "--predict"),
        ("--main-gup", "--main-gpu"),
        ("--no-nmap", "--no-mmap"),
        ("--no-mmpa", "--no-mmap"),
        ("--port", ""),
        ("--min-p", ""),
        ("-cnv", ""),
        ("-sas", ""),
        ("-r", ""),
        ("--no-warmup", ""),
        ("-threads", "--threads"),
        ("--ngl", "-ngl"),
        ("--ots", ""),  # of another kind
        ("--frobnicate", ""),
    ],
)
def test_only_typos_get_a_suggestion(name: str, meant: str) -> None:
    assert likely(name, FLAGS) == meant


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "acb", 1), ("abc", "ab", 1), ("abc", "xbcd", 2), ("", "ab", 2)],
)
def test_edits(a: str, b: str, n: int) -> None:
    assert edits(a, b) == edits(b, a) == n


def test_a_suggestion_takes_what_was_given() -> None:
    assert complaint("run", "--host1", "x") == "no such option --host1"
    assert complaint("run", "--hois") == "no such option --hois; did you mean --hoist?"
    assert complaint("run", "--hois", "a.example") == "no such option --hois"
    assert complaint("run", "-nlg") == "no such option -nlg"
    assert complaint("run", "--treads", "4") == "no such option --treads; did you mean --threads?"


# ---- values ----


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"n_gpu_layers": "all"}, {}),
        ({"n_gpu_layers": "auto"}, {"n_gpu_layers": -1}),
        ({"n_gpu_layers": "-2"}, {"n_gpu_layers": "all"}),
        ({"n_threads": "-1"}, {"n_threads": 0}),
        ({"n_threads": "0"}, {}),
        ({"n_parallel": "-1", "checkpoint_every": "-1"}, {"n_parallel": 1, "checkpoint_every": 0}),
        ({"devices": "sim:rtx4090,sim:2x3090"}, {"devices": ("sim:rtx4090", "sim:2x3090")}),
        ({"devices": "CUDA0/CUDA1"}, {"devices": ("CUDA0", "CUDA1")}),
        ({"devices": ["CUDA1, CUDA0"]}, {"devices": "CUDA1,CUDA0"}),
    ],
)
def test_values_as_others_read_them(given: dict[str, Any], same: dict[str, Any]) -> None:
    assert session_options(**given) == session_options(**same)


def test_no_context_is_that_of_training() -> None:
    with closing(graphsched.load(n_ctx="0", n_threads=1)) as session:
        assert session.n_ctx == session.model.n_ctx_train > 0
    assert session_options(n_ctx="-1") == SessionOptions()


def test_bench_lists_take_these_words(run: Run) -> None:
    line = "bench -p 4 -n 0 -r 1 --no-warmup -o jsonl -t 1 -b 4 --device sim:2x3090"
    rows = [json.loads(row) for row in run(f"{line} -ngl all,0 -c 0")[1].splitlines()]
    assert [row["n_gpu_layers"] > 0 for row in rows] == [True, False]
    assert len({row["n_ctx"] for row in rows}) == 1


@pytest.mark.parametrize("n", ["-1", "-2"])
def test_no_limit_is_until_the_context_is_full(run: Run, n: str) -> None:
    code, out, err = run(f"run -n {n} -c 32 --temp 0 --ignore-eos -p Lily")
    assert (code, out.startswith("Lily"), "the context of 32 tokens is full" in err) == (0, True, True)


@pytest.mark.parametrize(
    ("flags", "devices"),
    [
        ("-dev CUDA0", ["CPU", "sim0"]),
        ("-dev CUDA1", ["CPU", "sim1"]),
        ("-dev CUDA1,CUDA0 -ts 1", ["CPU", "sim0", "sim1"]),
        ("-sm none -mg 1", ["CPU", "sim0", "sim1"]),
        ("-ot blk=CUDA1 -ts 0,1", ["CPU", "sim0", "sim1"]),
    ],
)
def test_gpus_of_a_simulated_machine(run: Run, flags: str, devices: list[str]) -> None:
    code, out, err = run(f"plan --json --nodes --device sim:2x3090 {flags}")
    assert (code, err) == (0, "")
    assert sorted(device for device in json.loads(out)["devices"]) == devices


def test_a_gpu_beyond_the_simulated_machine(run: Run) -> None:
    assert run("plan --device sim:2x3090 -dev CUDA2") == (
        2,
        "",
        "graphsched: -dev is CUDA2, the simulated devices are sim0, sim1\n",
    )


# ---- instead of a run ----


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_done_instead(run: Run, name: str) -> None:
    assert run(f"{name} -m none.gguf --port 80 --version") == run("--version")
    assert run(f"{name} -m none.gguf --list-devices") == run("devices")
    assert "--list-devices" not in run(f"{name} --help")[1]


# ---- many lines ----


def test_lines_are_counted_by_what_becomes_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "./llama-server -m 'a b.gguf' -ngl 99 --port 80",
        "llama-bench.exe -m x.gguf -p 512 -t 1,2 -ngl 99 -fa 0,1",
        "llama-bench -t 1,x",
        "llama-cli -ngl 1 and then",
        "llama-perplexity --frob 1",
        "bin/main -m x --rpc y",
        "echo llama-cli",
    )
    (tmp_path / "lines").write_text("\n".join(lines))
    monkeypatch.setattr("sys.argv", ["pasted_lines.py", "--all", str(tmp_path / "lines")])
    pasted_lines.main()
    out = capsys.readouterr().out
    assert "6 lines: 2 accepted (33.3%)" in out
    for part in (
        "a value is refused: bench -t 1,x\n    -t is x,",
        "other text in it: run -ngl 1 and then\n",
        "unknown flags: perplexity --frob 1\n    --frob\n",
        "refused with a reason: run -m x --rpc y\n    --rpc: devices",
    ):
        assert part in out


# ---- hints ----


def hints(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("hint")]


def test_a_context_beyond_training(run: Run) -> None:
    said = "hint: the model was trained on 512 tokens, the context has 4096"
    assert hints(run("run -n 1 -c 4096")[2]) == [said]
    assert hints(run("plan -c 4096")[2]) == [said]
    assert hints(run("run -n 1 -c 512")[2]) == hints(run("plan -c 512")[2]) == []
    assert said not in run("run -n 1 -c 4096 -q")[2]


def test_more_threads_than_cores(run: Run) -> None:
    cores = usable_cores()
    said = f"hint: {cores + 1} threads on {cores} core{'s' if cores > 1 else ''}"
    assert hints(run(f"run -n 1 -t {cores + 1}")[2]) == [said]
    assert hints(run(f"run -n 1 -t {cores}")[2]) == []


def test_variables_of_llama_cpp(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_MODEL", "/none.gguf")
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "16")
    code, _, err = run("run -n 1")
    assert code == 0
    assert hints(err) == ["hint: only flags are read, no variables: LLAMA_ARG_CTX_SIZE, LLAMA_ARG_MODEL"]


def test_overrides_to_a_gpu_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphsched.run import device

    monkeypatch.setattr(device, "gpu_reason", lambda: "no driver")
    code, _, err = run("run -n 1 -ot blk=CUDA0")
    assert (code, "no usable GPU, everything runs on the CPU: no driver" in err) == (0, True)


def test_a_line_knows_foreign_flags_by_their_command() -> None:
    line = ModelLine(iter(()), {}, command=command("plan"))  # type: ignore[arg-type]  # nothing is read
    found = line.foreign("--temp")
    assert found is not None
    assert (found.kind, found.values) == (Kind.UNUSED, ("VALUE",))
    assert line.foreign("--phase") is not None  # profile has it, too
    assert line.foreign("--frobnicate") is None


def test_flags_refused_for_one_reason_are_named_together(run: Run) -> None:
    code, _, err = run("run --rope-scaling yarn --rope-scale 4 --lora x --rope-scale 4")
    assert code == 2
    assert err.count("--override-kv changes it") == 1
    assert "--rope-scaling, --rope-scale: " in err
    assert "; --lora: " in err


@pytest.mark.parametrize("line", ["-ngl 99", "-cmoe", "-ncmoe 3", "-ts 1,1", "-ot blk=CUDA0", "-op 26,0"])
def test_a_plan_says_that_no_device_is_named(run: Run, line: str) -> None:
    code, _, err = run(f"plan {line}")
    assert (code, err.count("hint: everything is on the CPU, as no device is named")) == (0, 1)
    assert "no device is named" not in run("plan --device sim:2x3090 " + line)[2]


def test_a_plan_without_flags_for_devices_has_no_hint(run: Run) -> None:
    assert run("plan -c 64")[2] == ""


@pytest.mark.parametrize("name", ["CUDA0", "ROCm0", "vulkan0"])
def test_real_devices_have_the_names_of_other_engines(run: Run, name: str) -> None:
    code, out, _ = run(f"plan --json -dev {name}")
    assert (code, set(json.loads(out)["devices"])) == (0, {"CUDA0", "CPU"})


def test_options_that_do_not_change_the_likeliest_token(run: Run) -> None:
    code, _, err = run("run -n 1 --temp 0 --seed 3 --top-k 5")
    assert (code, "hint: without effect: -s, --top-k, as the likeliest token is taken" in err) == (0, True)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("plan -c 64 -c 128", "-c"),
        ("plan -c 64 --ctx-size 128 -ub 8 -ub 9", "--ctx-size, -ub"),
        ("plan -c 64 -c 64", ""),
        ("plan -ot a=CPU -ot b=CPU", ""),
        ("bench -p 1 -p 2 -n 0 -r 1 -t 1", ""),
    ],
)
def test_values_that_others_replace_are_named(run: Run, line: str, named: str) -> None:
    code, _, err = run(line)
    found = [each for each in hints(err) if "more than once" in each]
    assert (code, found) == (0, [f"hint: given more than once, the last counts: {named}"] * bool(named))


def test_a_machine_that_cannot_be_read_is_named_with_its_path(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert run("plan --device", str(path)) == (2, "", f"graphsched: {path}: no such file or directory\n")
