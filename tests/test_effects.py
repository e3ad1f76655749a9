"""Everything given is used or named: rules are counted by what they place, and one without effect is said."""

import json
import re
import shlex
import string
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf_files import gguf, tensor, write
from running import model_path
from tiny import files
from tiny.early import EARLY
from tiny.family import FAMILY
from tiny.files import MODELS
from tiny.recurrent import RECURRENT

from graphsched.errors import OptionError
from graphsched.gguf.given import Given, unused
from graphsched.gguf.loader import open_model
from graphsched.graph.opdef import Op
from graphsched.graph.tensor import Tensor, f32, input_tensor, weight
from graphsched.ops import mul_mat
from graphsched.schedule.effects import placed_by, policy_given
from graphsched.schedule.overrides import parse_overrides
from graphsched.schedule.pattern import compiled
from graphsched.schedule.placement import PlacementOptions
from graphsched.schedule.policy import OffloadPolicy, checked
from graphsched.session.homes import homes_of
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions, session_options
from graphsched.synth import model as synth
from graphsched.types.devices import HOST

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    folder = tmp_path_factory.mktemp("layouts")

    @cache
    def opened(name: str) -> Model:
        synth.write(name, folder / f"{name}.gguf", extent="header")
        return Model(open_model(folder / f"{name}.gguf", header_only=True))

    return opened


# --- patterns ---


@pytest.mark.parametrize(
    ("name", "characters"),
    [
        ("digit", string.digits),
        ("alpha", string.ascii_letters),
        ("alnum", string.ascii_letters + string.digits),
        ("upper", string.ascii_uppercase),
        ("lower", string.ascii_lowercase),
        ("punct", string.punctuation),
        ("xdigit", string.hexdigits),
        ("space", string.whitespace),
        ("blank", " \t"),
        ("w", string.ascii_letters + string.digits + "_"),
        ("d", string.digits),
        ("graph", string.ascii_letters + string.digits + string.punctuation),
        ("print", string.ascii_letters + string.digits + string.punctuation + " "),
        ("cntrl", "".join(map(chr, (*range(32), 127)))),
    ],
)
def test_classes_of_characters_are_those_of_posix(name: str, characters: str) -> None:
    inside, outside = compiled(f"[[:{name}:]]", ""), compiled(f"[^[:{name}:]]", "")
    for code in range(128):
        assert (inside.fullmatch(chr(code)) is not None) == (chr(code) in characters), code
        assert (outside.fullmatch(chr(code)) is None) == (chr(code) in characters), code


@pytest.mark.parametrize(
    ("pattern", "found", "missed"),
    [
        (r"blk\.[[:digit:]]+\.ffn_.*_exps", "blk.12.ffn_up_exps.weight", "blk.d.ffn_up_exps"),
        (r"[[:digit:]x-z_]+$", "1xyz_", "1a"),
        (r"[[:alpha:][:digit:]]{3}$", "a1b", "a-b"),
        (r"^[^[:space:][:upper:]]+$", "blk.0", "blk 0"),
        (r"[a[:]b", "[b", "cb"),  # a bracket in a set is itself
        (r"\[[:digit:]\]", "[d]", "[1]"),  # no set in front: the same set of characters as in C++
        (r"[\]:]x", ":x", "[x"),
        (r"[[:DIGIT:]]", "7", "D"),
    ],
)
def test_patterns_with_classes(pattern: str, found: str, missed: str) -> None:
    assert compiled(pattern, "").search(found)
    assert not compiled(pattern, "").search(missed)


@pytest.mark.parametrize("piece", ["[:digits:]", "[:^alpha:]", "[=a=]", "[.hyphen.]", "[::]"])
def test_classes_that_there_are_not(run: Run, piece: str) -> None:
    code, _, err = run("plan", "--device", "sim:rtx4090", "-ot", f"blk.[{piece}].ffn=CPU")
    assert (code, err.count("\n")) == (2, 1)
    assert f"there is no class {piece}; there are alnum, alpha, " in err


def test_quantize_reads_the_same_patterns(run: Run, tmp_path: Path) -> None:
    args = ["--custom-q", "BLK.[[:digit:]].ffn_up=q8_0", model_path("llama"), tmp_path / "o.gguf", "Q4_0"]
    code, _, err = run("quantize", *args)
    assert (code, "without effect" in err) == (0, False)
    assert open_model(tmp_path / "o.gguf").tensors["blk.0.ffn_up.weight"].dtype.name == "Q8_0"


# --- overrides, against a reading of their own ---

# Lines of the kinds that are copied around: a whole class of tensors, layers by number, halves of experts, several
# devices, commas, shadowed and mistyped rules.
LINES = [
    ("qwen3-30b-a3b", r"-ot exps=CPU", 1),
    ("qwen3-30b-a3b", r"-ngl 99 -ot '.ffn_(up|down)_exps.=CPU'", 1),
    ("qwen3-30b-a3b", r"-ngl 99 -ts 24,12 -ot 'blk\.(1[0-9]|2[0-9])\.ffn_.*_exps=sim1' -ot exps=CPU", 2),
    ("qwen3-30b-a3b", r"-ot 'blk\.[0-9]+\.fnn_.*_exps=CPU'", 1),
    ("qwen3-30b-a3b", r"-ot 'blk\.9[0-3]\.ffn.*=CPU'", 1),
    ("qwen3-30b-a3b", r"-ot exps=CPU -ot 'blk\.(3|4)\.ffn_.*_exps=sim1'", 2),
    ("qwen3-30b-a3b", r"-ot 'blk.(?:[0-9]|[1-7][0-9]|[8][0-7]).ffn._exps.=CPU'", 1),
    ("qwen3-30b-a3b", r"-ngl 30 -ot 'ffn_up_exps=sim0,ffn_gate_exps=sim1,ffn_down_exps=CPU'", 2),
    ("qwen3-30b-a3b", r"-ot '^output\.=CPU' -ot 'output_norm=CPU' -ot 'output=sim1'", 2),
    ("qwen3-30b-a3b", r"-ts 3,1,0 -ot attn=sim2 -ot 'attn_norm=CPU' -ot token_embd=sim0", 3),
    ("deepseek-v3", r"-ngl 63 -ot 'blk\.[3-5]\.ffn_.*_exps=sim0' -ot 'ffn_.*_shexp=sim1' -ot 'shexp=CPU'", 2),
    ("deepseek-v3", r"-ot 'blk\.[0-2]\.ffn_down_exps=CPU' -ot 'ffn_gate_inp=CPU'", 1),
    ("deepseek-v3", r"-ot attn_kv_b=CPU -ot 'attn_(k|v)_b=CPU'", 1),
    ("deepseek-v3", r"-ot 'exps=CPU -ot blk\.1\.=sim0'", 1),  # a quote in the wrong place
    ("deepseek-v3", r"-ot 'blk\.([0-9]|1[0-9])\.ffn_{1,2}gate_exps=sim0,exps=CPU'", 1),
    ("deepseek-v3", r"-ot 'attn=CPU,blk\.[0-3]\.ffn=CPU' -ngl 99", 1),
    (
        "deepseek-v3",
        r"-ot 'blk.(4[7-9]|[5-9][0-9]).ffn_norm.=sim0' -ot 'blk.([3][1-9]|[4-9][0-9]).ffn_.*=CPU'",
        1,
    ),
    (
        "deepseek-v3",
        r"-ngl 61 -ts 1,2 -ot 'blk\.1[2-8]\.ffn_gate_exps\.weight=sim1' -ot 'blk\.[1-5][0-9]\.ffn_norm\.weight=sim0'",
        2,
    ),
    ("maverick", r"-ngl 99 -ot 'ffn_.{2,4}_exps=CPU' -ot 'blk\.[[:digit:]]*[13579]\.ffn=CPU'", 1),
]


@pytest.mark.parametrize(("layout", "line", "n"), LINES)
def test_rules_place_what_an_independent_reading_says(
    layouts: Callable[[str], Model], layout: str, line: str, n: int
) -> None:
    """Bytes of each device, and tensors and bytes of each rule: the first pattern found in a name wins."""
    model, devices = layouts(layout), tuple(f"sim{i}" for i in range(n))
    words = shlex.split(line)
    given = {flag: [b for a, b in pairwise(words) if a == flag] for flag in words[::2]}
    options = session_options(
        overrides=given["-ot"],
        n_gpu_layers=int(given.get("-ngl", [-1])[0]),
        tensor_split=given.get("-ts", [()])[0],
    )
    placement = homes_of(model, options, devices).placement
    sizes = {name: t.nbytes for name, t in model.file.tensors.items()}
    bytes_by_device, rules = read_plainly(sizes, given, devices)
    found: Counter[str] = Counter()
    for name, size in sizes.items():
        found[placement.homes[name].device] += size
    assert +found == +bytes_by_device
    assert [(g.what, g.hits, g.nbytes) for g in placement.given if g.what.startswith("-ot")] == rules


def read_plainly(
    sizes: dict[str, int], given: dict[str, list[str]], devices: tuple[str, ...]
) -> tuple[Counter[str], list[tuple[str, int, int]]]:
    """What a line means, written down without the project's code."""
    pairs = [piece for text in given["-ot"] for piece in re.split(r"(?<=CPU),|(?<=sim\d),", text)]
    n_layer = 1 + max(int(m[1]) for name in sizes if (m := re.match(r"blk\.(\d+)\.", name)))
    wanted = int(given.get("-ngl", ["-1"])[0])
    wanted = n_layer + 1 if wanted < 0 else min(wanted, n_layer + 1)
    ts = [float(x) for x in given.get("-ts", [",".join("1" * len(devices))])[0].split(",")]
    cumulated = np.array(list(accumulate(np.array(ts, np.float32))), np.float32) / np.float32(sum(ts))
    device, first = [HOST] * (n_layer + 1), max(n_layer - wanted, 0)  # the output only goes after all layers
    for i in range(wanted):
        device[first + i] = devices[int(np.sum(cumulated <= np.float32(i) / np.float32(wanted)))]
    totals: Counter[str] = Counter()
    rules = {pair: [0, 0] for pair in pairs}
    for name, size in sizes.items():
        layer = re.match(r"blk\.(\d+)\.", name)
        home = device[int(layer[1])] if layer else device[-1] if name.startswith("output") else HOST
        for pair in pairs:
            pattern, _, buffer = pair.rpartition("=")
            if re.search(pattern.replace("[[:digit:]]", "[0-9]"), name):
                home = buffer
                rules[pair][0] += 1
                rules[pair][1] += size
                break
        totals[home] += size
    return totals, [(f"-ot {pair}", *counts) for pair, counts in rules.items()]  # type: ignore[misc]


def effects(*texts: str, names: tuple[str, ...] = ("a.weight", "b.weight", "ab.weight")) -> list[Given]:
    overrides = parse_overrides(texts)
    types = dict.fromkeys(names, f32(2, 4))
    chosen = {n: found for n in types if (found := next((o for o in overrides if o.finds(n)), None))}
    return list(placed_by(overrides, types, chosen))


@pytest.mark.parametrize(
    ("texts", "hits", "why"),
    [
        (["a=CPU"], [2], [""]),
        (["a=CPU", "b=CPU", "c=CPU"], [2, 1, 0], ["", "", "matches no tensor"]),
        (["a=CPU", "^ab=CPU"], [2, 0], ["", "every tensor it matches was taken by -ot a=CPU"]),
        (
            ["^a\\.=CPU", "^ab=CPU", "a=sim0", "b=CPU"],
            [1, 1, 0, 1],
            ["", "", "every tensor it matches was taken by -ot ^a\\.=CPU, ^ab=CPU", ""],
        ),
        (["b=CPU", "b=CPU"], [2, 0], ["", "every tensor it matches was taken by -ot b=CPU"]),
        (["A=CPU"], [0], ["matches no tensor"]),
    ],
)
def test_effects_of_overrides(texts: list[str], hits: list[int], why: list[str]) -> None:
    found = effects(*texts)
    assert [(g.hits, g.nbytes, g.why) for g in found] == [
        (n, 32 * n, reason) for n, reason in zip(hits, why, strict=True)
    ]
    dead = [g for g in found if not g.hits]
    line = f"without effect: {', '.join(f'{g.what} ({g.why})' for g in dead)}"
    assert unused(found) == (line if dead else None)


# --- what commands say ---

TYPO = "without effect: -ot fnn=CPU (matches no tensor)"


@pytest.mark.parametrize(
    ("args", "hints"),
    [
        (["-ot", "exps=CPU"], []),
        (["-ot", "fnn=CPU"], [TYPO]),
        (["-ot", "fnn=CPU", "-ot", "exps=CPU", "-ot", "down_exps=sim0", "-ot", "x9=sim0"], [
            TYPO,
            "without effect: -ot down_exps=sim0 (every tensor it matches was taken by -ot exps=CPU)",
            "without effect: -ot x9=sim0 (matches no tensor)",
        ]),
        (["-ncmoe", "2"], []),
        (["-ncmoe", "1", "-ngl", "0"], ["without effect: -ncmoe 1 (no layer with experts is left to it on a device)"]),
        (["-cmoe", "-ot", "exps=sim0"], ["without effect: -cmoe (no layer with experts is left to it on a device)"]),
        (["-op", "MUL_MAT_ID=0,SSM_SCAN=0", "-ot", "down_exps=CPU"], [
            "without effect: -op SSM_SCAN=0 (no node with a weight in host memory is one)"
        ]),
        (["-cmoe", "-ncmoe", "1", "-ncmoe-first", "1"], [
            "without effect: -ncmoe-first 1 (no layer with experts is left to it on a device)",
            "without effect: -ncmoe 1 (no layer with experts is left to it on a device)",
        ]),
        (["-op", "ROPE=0"], ["without effect: -op ROPE=0 (no node with a weight in host memory is one)"]),
        (["-op", "-1,0"], []),  # the embedding is in host memory
        (["-mg", "0"], []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["plan"], ["profile", "-p", "8", "-n", "1"]])
def test_flags_without_effect_are_named(
    run: Run, command: list[str], args: list[str], hints: list[str]
) -> None:
    code, _, err = run(*command, "-m", model_path("mixtral"), "--device", "sim:rtx4090", *args)
    assert (code, err.splitlines()) == (0, [f"hint: {hint}" for hint in hints])


@pytest.mark.parametrize(
    ("name", "args", "hits"),
    [
        ("llama", ["-mla", "1", "-amb", "512"], {"-mla 1": 0, "-amb 512": 0}),
        ("deepseek2-lite", ["-mla", "1", "-amb", "512", "--swa-full"], {"-mla 1": 27, "-amb 512": 27, "--swa-full": 0}),
        ("deepseek2-lite", ["-mla", "3"], {}),  # as without
        ("gemma3", ["--swa-full"], {"--swa-full": 6}),
        ("llama", ["-rtr", "1"], {"-rtr 1": 0}),  # F16 has no interleaved type
        ("llama-Q4_0", ["-rtr", "1", "-ngl", "0"], {"-rtr 1": 7}),
        ("llama-Q4_0", ["-rtr", "1"], {"-rtr 1": 0}),  # all on the device
        ("llama-Q4_0", ["-rtr", "auto"], {}),
    ],
)  # fmt: skip
def test_options_of_layers_are_counted(run: Run, name: str, args: list[str], hits: dict[str, int]) -> None:
    args = ["plan", "-m", model_path(name), "--device", "sim:rtx4090", *args, "--json"]  # type: ignore[list-item]
    _, out, err = run(*args)
    assert {g["given"]: g["hits"] for g in json.loads(out)["given"]} == hits
    assert [re.findall(r"without effect: (.*) \(", line)[0] for line in err.splitlines()] == [
        what for what, n in hits.items() if not n
    ]


@pytest.mark.parametrize(
    ("flags", "n"),
    [
        ("-ot ffn_up=CPU -ot ffn_gate=sim0", 2),
        ("-ot blk.1.ffn_gate_exps=CPU", 1),
        ("-ot ffn_(up|gate)_exps=CPU", 0),
    ],
)
def test_a_plan_says_that_up_and_gate_are_apart(run: Run, flags: str, n: int) -> None:
    err = run("plan", "-m", model_path("qwen3moe"), "--device", "sim:rtx4090", *flags.split())[2]
    assert err == (f"hint: up and gate of experts are apart, on two devices, in {n} layers\n" if n else "")


def test_flags_of_several_devices_without_effect(run: Run) -> None:
    two = ["plan", "-m", model_path("llama"), "--device", "sim:2x3090"]
    assert run(*two, "-ts", "1,3", "-sm", "none", "-mg", "1")[2] == (
        "hint: without effect: -ts 1,3 (-sm none takes one device)\n"
    )
    assert run(*two, "-ts", "1,3", "-mg", "1")[2] == "hint: without effect: -mg 1 (is for -sm none)\n"
    assert run(*two, "-cmoe")[2] == "hint: without effect: -cmoe (no layer has experts)\n"
    none = "(it places nothing on a device)\n"
    assert run(*two, "-ngl", "0", "-ts", "1,3")[2] == f"hint: without effect: -ts 1,3 {none}"
    assert run(*two, "-ngl", "0", "-sm", "none", "-mg", "1")[2] == f"hint: without effect: -mg 1 {none}"


@pytest.mark.parametrize(
    "command",
    [
        ["run", "-n", "1", "--no-timings"],
        ["bench", "-p", "2", "-n", "0", "-r", "1", "-ub", "1,2"],  # two sessions, one hint
        ["sweep-bench", "-c", "4", "-ub", "2", "-n", "1"],
        ["batched-bench", "-npp", "2", "-ntg", "1", "-npl", "1"],
        ["profile", "-p", "2", "-n", "1", "-r", "1"],
    ],
)
def test_sessions_say_it_too_without_any_device(run: Run, command: list[str]) -> None:
    code, _, err = run(*command, "-ot", "fnn=CPU", "-ot", "ffn=CPU")
    assert (code, [line for line in err.splitlines() if "hint" in line]) == (0, [f"hint: {TYPO}"])


def test_details_and_data_count_every_rule(run: Run) -> None:
    args = ["-m", model_path("mixtral"), "--device", "sim:rtx4090", "-ot", "exps=CPU", "-ot", "fnn=CPU"]
    sizes = [t.nbytes for name, t in open_model(model_path("mixtral")).tensors.items() if "exps" in name]
    data = json.loads(run("plan", "--json", *args)[1])
    assert data["given"] == [
        {"given": "-ot exps=CPU", "hits": len(sizes), "bytes": sum(sizes), "why": ""},
        {"given": "-ot fnn=CPU", "hits": 0, "bytes": 0, "why": "matches no tensor"},
    ]
    table = run("plan", *args)[1]
    assert re.search(rf"-ot exps=CPU +│ +{len(sizes)} │", table)
    assert re.search(r"-ot fnn=CPU +│ +0 │ +│ matches no tensor", table)
    err = run("run", "-v", "-n", "1", *args)[2]
    assert f"-ot exps=CPU: {len(sizes)} hits" in err.replace("\n", " ")
    assert "-ot fnn=CPU: 0 hits" in err


def test_nodes_that_the_policy_is_about_are_counted(run: Run) -> None:
    """Of a layer with up and gate fused, the fused op and the down product are asked about."""
    model = ["-m", model_path("mixtral"), "--device", "sim:rtx4090", "-ot", "exps=CPU"]
    n_layer = Model(open_model(model_path("mixtral"))).config.n_layer
    asked = f"{int(Op.MUL_MAT_ID)},0,{int(Op.MOE_FUSED_UP_GATE)},0"
    data = json.loads(run("plan", "--json", *model, "-op", asked)[1])
    counts = {g["given"]: g["hits"] for g in data["given"] if g["given"].startswith("-op")}
    assert counts == {"-op MUL_MAT_ID=0": 2 * n_layer, "-op MOE_FUSED_UP_GATE=0": 2 * n_layer}
    assert run("plan", *model, "-op", asked, "-no-fmoe")[2] == (
        "hint: without effect: -op MOE_FUSED_UP_GATE=0 (no node with a weight in host memory is one)\n"
    )


class Always:
    """A rule of another package."""

    def wants(self, node: Tensor, rows: int) -> bool:
        return True


def test_a_rule_of_another_package_is_counted() -> None:
    node = mul_mat(weight("w", f32(3, 4)), input_tensor("x", f32(2, 4)))
    policy = OffloadPolicy(frozenset({int(Op.MUL_MAT)}), checked(Always(), "always"))
    (op, rule) = policy_given(policy, [node])
    assert (op.what, op.hits, rule.what, rule.hits) == ("-op MUL_MAT=0", 1, "-op-rule always", 1)
    assert unused(policy_given(policy, [])) == (
        "without effect: -op MUL_MAT=0 (no node with a weight in host memory is one), "
        "-op-rule always (no weight is in host memory)"
    )
    assert policy_given(OffloadPolicy(), [node]) == policy_given(checked(Always()), [node]) == ()


# --- tensors of a file that nothing reads ---


ASKED = [(name, 3) for name in (*MODELS, *FAMILY, *EARLY, *RECURRENT)]
IGNORED = {  # on purpose
    "dream": ("output.bias",),
    "ernie": ("attn_output.bias",),
    "llada": ("attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias", "rope_freqs.weight"),
}
LATENT = ("deepseek2", "kimi-linear", "bailingmoe3")
ASKED += [(name, mla) for name, _ in ASKED if name.startswith(LATENT) for mla in (0, 1)]


@pytest.mark.parametrize(("name", "mla"), ASKED)
def test_architectures_ask_for_all_their_tensors(name: str, mla: int) -> None:
    model = Model(open_model(model_path(name)))
    model.graph(1, 1, 64, SessionOptions(mla=mla))
    last = (
        model.config.n_layer - 1
    )  # of some only the last one, which predicts further tokens, is not computed
    unread = [found for found in model.unread if not re.match(rf"blk\.{last}\.", found)]
    ignored = next((names for start, names in IGNORED.items() if name.startswith(start)), ())
    assert {found for found in unread if not found.endswith(ignored)} == set()
    assert {n for n in ignored if not any(found.endswith(n) for found in unread)} == set()


def with_more(name: str, folder: Path, more: dict[str, tuple[int, ...]]) -> Path:
    """A tiny model with further F32 tensors."""
    opened = open_model(files.path(name))
    entries, data = [], bytearray()
    for info in opened.tensors.values():
        entries.append(tensor(info.name, info.shape[::-1], info.dtype.id, len(data)))
        raw = opened.raw(info.name).tobytes()
        data += raw.ljust(-(-len(raw) // 32) * 32, b"\0")
    for found, shape in more.items():
        entries.append(tensor(found, shape[::-1], 0, len(data)))
        size = 4 * int(np.prod(shape))
        data += bytes(-(-size // 32) * 32)
    return write(folder, gguf(files.metadata(name), entries, bytes(data)), "more.gguf")


@pytest.mark.parametrize(("name", "unread"), [("llama", ()), ("qwen2", ("blk.0.ffn_up.scale",))])
def test_scales_of_matrices_count_where_llama_cpp_applies_them(
    name: str, unread: tuple[str, ...], tmp_path: Path
) -> None:
    more: dict[str, tuple[int, ...]] = {"blk.0.ffn_up.scale": (1,), "blk.0.attn_q.scale": (1,)}
    model = Model(open_model(with_more(name, tmp_path, more)))
    graph = model.graph(1, 1, 64, SessionOptions())
    read = {leaf.name for leaf in graph.leaves} & {*more}
    assert (model.unread, read) == (unread, {*more} - {*unread})


def test_scales_of_a_feed_forward_scale_its_bias(tmp_path: Path) -> None:
    more: dict[str, tuple[int, ...]] = {
        f"blk.0.{matrix}.{what}": (n,)
        for matrix, width in (("ffn_up", 256), ("attn_q", 128))
        for what, n in (("scale", 1), ("bias", width))
    }
    graph = Model(open_model(with_more("llama", tmp_path, more))).graph(1, 1, 64, SessionOptions())
    readers = {s.name: node for node in graph.nodes for s in node.sources if s.name in more}
    assert readers["blk.0.ffn_up.scale"].sources[0] is readers["blk.0.ffn_up.bias"]
    assert readers["blk.0.attn_q.bias"].sources[0] is readers["blk.0.attn_q.scale"]


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        ({}, ""),
        ({"blk.0.attn_rot_embd.weight": (8,)}, "1 tensor is not read, blk.0.attn_rot_embd.weight"),
        ({"blk.1.lora_a": (2, 2), "v.patch.weight": (4,)}, "2 tensors are not read, blk.1.lora_a, v.patch.weight"),
        (
            {f"mm.{i}.weight": (1,) for i in range(5)},
            "5 tensors are not read, mm.0.weight, mm.1.weight, mm.2.weight and 2 more",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["plan"], ["run", "-n", "0", "-p", "a", "--no-timings"]])
def test_tensors_that_nothing_reads(
    run: Run, tmp_path: Path, command: list[str], more: dict[str, tuple[int, ...]], hint: str
) -> None:
    code, _, err = run(*command, "-m", with_more("llama", tmp_path, more))
    assert (code, err) == (0, f"hint: more.gguf: {hint}\n" if hint else "")


def test_a_pattern_that_is_no_text_is_an_error() -> None:
    with pytest.raises(OptionError, match="no regular expression"):
        PlacementOptions(overrides="blk.(=CPU")
