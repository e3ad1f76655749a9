"""Samplers besides top-k, top-p and min-p: each against its rule written out token by token, and as flags."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graphsched.cli import main as cli
from graphsched.errors import Error, OptionError
from graphsched.text import candidates
from graphsched.text.candidates import Candidates
from graphsched.text.mirostat import Mirostat, exponent
from graphsched.text.options import SamplingOptions
from graphsched.text.repetition import breakers_of, penalised, repeats, without_repeats
from graphsched.text.sampling import Sampler

F32 = NDArray[np.float32]
Run = Callable[..., tuple[int, str, str]]
LOGITS = st.lists(
    st.sampled_from([-math.inf, -3.0, -1.5, -1.0, 0.0, 0.25, 1.0, 2.5]), min_size=1, max_size=8
).filter(lambda x: max(x) > -math.inf)
TOKENS = st.lists(st.integers(0, 3), max_size=14)
QUICK = settings(deadline=None, max_examples=60)
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def with_args(*args: str) -> tuple[int, str, str]:
        return cli.run(args), *capsys.readouterr()

    return with_args


def f32(values: Sequence[float]) -> F32:
    return np.array(values, np.float32)


def softmax(values: Sequence[float]) -> list[float]:
    weights = [math.exp(v - max(values)) for v in values]
    return [w / sum(weights) for w in weights]


def tokens(c: Candidates) -> list[int]:
    return [c.token(i) for i in range(len(c))]


# ---- penalties ----


@QUICK
@given(LOGITS, st.lists(st.integers(0, 7), max_size=12), st.sampled_from([0.5, 1.0, 1.3]))
def test_penalties(values: list[float], recent: list[int], repeat: float) -> None:
    recent = [t for t in recent if t < len(values)]
    expected = list(values)
    for t in set(recent):
        x = values[t] / repeat if values[t] > 0 else values[t] * repeat
        expected[t] = x - 0.25 * recent.count(t) - 1.5
    got = penalised(f32(values), recent, repeat, frequency=0.25, presence=1.5)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_penalties_in_a_sampler() -> None:
    """Tokens of the prompt count, as far back as --repeat-last-n goes."""
    logits = f32([1.0, 0.9, 0.5])
    for options, expected in (
        ({"presence_penalty": 0.3}, [1, 0, 0]),
        ({"frequency_penalty": 0.3}, [1, 1, 2]),
        ({"presence_penalty": 0.3, "repeat_last_n": 1}, [1, 0, 1]),
        ({"presence_penalty": 0.3, "repeat_last_n": 0}, [0, 0, 0]),
        ({"presence_penalty": -0.3}, [0, 0, 0]),
    ):
        sampler = Sampler(SamplingOptions(temperature=0, **options))  # type: ignore[arg-type]
        for t in (0, 0) if "frequency_penalty" in options else (0,):
            sampler.accept(t)
        found = []
        for _ in range(3):
            found.append(sampler.sample(logits))
            sampler.accept(found[-1])
        assert found == expected, options


def repeated(recent: list[int], breakers: dict[int, set[tuple[int, ...]]], allowed: int) -> dict[int, int]:
    """For each token that came behind an earlier copy of the last n tokens the largest such n."""
    limit = len(recent)
    for start in reversed(range(len(recent))):
        ends = [
            start + 1 + len(tail)
            for tail in breakers.get(recent[start], ())
            if tuple(recent[start + 1 : start + 1 + len(tail)]) == tail
        ]
        if ends:
            limit = len(recent) - max(ends)
            break
    found: dict[int, int] = {}
    for end in range(1, len(recent)):  # the copy ends in front of this token
        n = 0
        while n < end and recent[end - 1 - n] == recent[-1 - n]:
            n += 1
        if (n := min(n, limit)) >= max(allowed, 1):
            found[recent[end]] = max(found.get(recent[end], 0), n)
    return found


@settings(deadline=None, max_examples=300)
@given(TOKENS, st.integers(1, 3), st.sampled_from([{}, {3: {()}}, {2: {(3,), (1, 1)}}, {2: {()}, 3: {(0,)}}]))
def test_repeats(recent: list[int], allowed: int, breakers: dict[int, set[tuple[int, ...]]]) -> None:
    assert repeats(recent, breakers, allowed) == repeated(recent, breakers, allowed)


def test_repeats_of_the_example_in_llama_cpp() -> None:
    a, b, c, y = range(4)
    assert repeats([a, b, c, c, b, c, y, a, b, c], {}, 1) == {c: 3, b: 1, y: 2}
    assert repeats([], {}, 2) == repeats([1], {}, 1) == {}


@QUICK
@given(TOKENS, st.integers(1, 2), st.sampled_from([1.0, 1.75]), st.sampled_from([{}, {3: {()}}]))
def test_dry(recent: list[int], allowed: int, base: float, breakers: dict[int, set[tuple[int, ...]]]) -> None:
    logits = f32([0.5, 1.0, -1.0, 2.0, 0.0])
    expected = logits.astype(np.float64)
    for token, n in repeated(recent, breakers, allowed).items():
        if token not in breakers:
            expected[token] -= 0.8 * base ** (n - allowed)
    got = without_repeats(logits, recent, breakers, multiplier=0.8, base=base, allowed=allowed)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_dry_never_overflows() -> None:
    got = without_repeats(f32([0, 0]), [1] * 3000, {}, multiplier=1.0, base=2.0, allowed=1)
    assert np.isfinite(got).all()
    assert got[1] < -1e37


class Words:
    """A vocabulary of a few texts; what is no token is cut into letters."""

    def __init__(self, *texts: str) -> None:
        self.texts = [*texts]
        self.n_vocab = len(texts)

    def encode(self, text: str, **_: bool) -> list[int]:
        return [self.texts.index(text)] if text in self.texts else [self.texts.index(c) for c in text]

    def piece(self, token: int, special: bool = False) -> bytes:
        return self.texts[token].encode()


def test_tokens_that_hold_a_breaker() -> None:
    words = Words("a", "b", ":", "a:", "::b", "xa", "ab", "b:")
    assert breakers_of([":"], words) == {2: {()}, 3: {()}, 4: {()}, 7: {()}}
    # in the token, or begun by it and ended by what follows
    assert breakers_of(["ab"], words) == {6: {()}, 0: {(1,)}, 5: {(1,)}}
    assert breakers_of(["ab:"], words) == {0: {(7,)}, 5: {(7,)}, 6: {(2,)}}
    assert breakers_of([], words) == {}


# ---- filters ----


@QUICK
@given(LOGITS, st.sampled_from([0.3, 1.0, 2.0]))
def test_top_n_sigma(values: list[float], n: float) -> None:
    finite = [v for v in values if v > -math.inf]
    mean = sum(finite) / len(finite)
    sigma = math.sqrt(sum((v - mean) ** 2 for v in finite) / len(finite))
    expected = [i for i, v in enumerate(values) if v >= max(values) - n * sigma]
    assert tokens(candidates.top_n_sigma(Candidates(f32(values)), n)) == expected


@QUICK
@given(LOGITS, st.sampled_from([0.05, 0.2, 0.35, 0.5]))
def test_xtc(values: list[float], threshold: float) -> None:
    p = softmax(values)
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    while len(order) > 1 and p[order[1]] >= threshold:
        order.pop(0)
    assert tokens(candidates.xtc(Candidates(f32(values)), threshold)) == order


def test_xtc_comes_with_its_chance() -> None:
    logits = f32([2.0, 1.9, -math.inf])
    for chance in (0.25, 1.0):
        options = SamplingOptions(1e-6, xtc_probability=chance, seed=4, **OFF)
        sampler = Sampler(options)
        left_out = sum(sampler.sample(logits) == 1 for _ in range(2000)) / 2000
        assert left_out == pytest.approx(chance, abs=0.03)
    # also where the likeliest is taken, and with a threshold that two tokens cannot both reach never
    assert Sampler(SamplingOptions(0, xtc_probability=1.0)).sample(logits) == 1
    assert Sampler(SamplingOptions(0, xtc_probability=1.0, xtc_threshold=0.51)).sample(logits) == 0


@QUICK
@given(LOGITS, st.sampled_from([0.1, 0.5, 0.9]))
def test_typical(values: list[float], share: float) -> None:
    p = softmax(values)
    entropy = -sum(x * math.log(x) for x in p if x)
    far = [abs(-math.log(x) - entropy) if x else math.inf for x in p]
    found = tokens(candidates.typical(Candidates(f32(values)), share))
    kept = [far[i] for i in found]
    assert kept == pytest.approx(sorted(kept))
    assert all(far[i] >= max(kept) - 1e-6 for i in range(len(p)) if i not in found)
    assert sum(p[i] for i in found[:-1]) <= share + 1e-6
    assert sum(p[i] for i in found) > share - 1e-6


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.0, 1.0, 3.0], [0.0, 40.0]])
def test_dynamic_temperature(values: list[float]) -> None:
    """Equal logits get the highest temperature, a sure thing the lowest."""
    p = softmax(values)
    entropy = -sum(x * math.log(x) for x in p if x)
    t = 0.5 + 1.0 * (entropy / math.log(len(p))) ** 2
    got = candidates.dynamic_temperature(Candidates(f32(values)), 1.0, 0.5, 2.0)
    np.testing.assert_allclose(got.logits, [(v - max(values)) / t for v in values], rtol=1e-6)


def test_dynamic_temperature_of_one_candidate() -> None:
    one = Candidates(f32([3.0]))
    assert candidates.dynamic_temperature(one, 1.0, 0.5, 1.0) is one


# ---- mirostat ----


def test_mirostat_keeps_the_surprise() -> None:
    """Both versions: the mean surprise over many tokens comes near to what is asked for."""
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(500) * 2).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum()
    means = {}
    for version, tau in itertools.product((1, 2), (2.0, 5.0)):
        options = SamplingOptions(1.0, mirostat=version, mirostat_tau=tau, seed=1, top_k=1)
        sampler = Sampler(options)
        drawn = [sampler.sample(logits) for _ in range(1500)]
        means[version, tau] = float(np.mean(-np.log2(p[drawn[300:]])))
    assert means[1, 2.0] < means[1, 5.0]
    assert means[2, 2.0] < means[2, 5.0]
    assert means[2, 5.0] == pytest.approx(5.0, abs=0.7)


def test_one_step_of_version_2() -> None:
    """Tokens that surprise more than 2 tau bits are left out, at first; then what was drawn counts."""
    p = [0.5, 0.25, 0.125, 0.0625, 0.0625]
    logits = f32([math.log(x) for x in p])
    chooser = Mirostat(2, 1.1, 0.5, 5, lambda: 0.9)
    assert chooser.choose(Candidates(logits)) == 1  # of 0.5 and 0.25, which become 2/3 and 1/3
    allowed = 2.2 - 0.5 * (math.log2(3) - 1.1)
    assert allowed < 2  # now 0.25 surprises too much
    assert Mirostat.choose(chooser, Candidates(logits)) == 0


def test_one_step_of_version_1() -> None:
    p = np.array([1 / r for r in range(1, 301)]) / sum(1 / r for r in range(1, 301))
    s = exponent(p)
    assert s == pytest.approx(1.0)
    p = np.array([r**-1.5 for r in range(1, 301)])
    p /= p.sum()
    assert exponent(p) == pytest.approx(1.5)
    e, mu, n = 0.5, 6.0, 300
    k = int((e * 2**mu / (1 - n**-e)) ** (1 / 1.5))
    last = Mirostat(1, 3.0, 0.1, n, lambda: 1 - 1e-9).choose(Candidates(f32(np.log(p).tolist())))
    assert last == k - 1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("values", [[0.0], [0.0] * 5, [0.0, -math.inf], [5.0, 5.0, -math.inf]])
def test_mirostat_with_few_candidates(version: int, values: list[float]) -> None:
    sampler = Sampler(SamplingOptions(1.0, mirostat=version, seed=0))
    assert {sampler.sample(f32(values)) for _ in range(50)} <= {
        i for i, v in enumerate(values) if v > -math.inf
    }


# ---- order and biases ----


def test_the_order_counts() -> None:
    """Temperature in front of min-p makes more tokens likely enough."""
    logits = f32([2.0, 1.0, 0.0])
    how: dict[str, Any] = {"temperature": 4.0, "min_p": 0.6, "top_k": 0, "top_p": 1.0, "seed": 1}

    def seen(**more: Any) -> set[int]:
        sampler = Sampler(SamplingOptions(**how, **more))
        return {sampler.sample(logits) for _ in range(200)}

    assert seen() == {0}
    assert seen(samplers="temperature;min_p") == {0, 1, 2}
    assert seen(sampling_seq="tm") == {0, 1, 2}
    assert seen(samplers="min-p;temp") == {0}
    assert seen(samplers="temperature") == {0, 1, 2}
    # penalties behind a filter see what it left
    late = SamplingOptions(0, samplers="top_k;penalties;temperature", top_k=2, presence_penalty=5.0)
    sampler = Sampler(late)
    sampler.accept(0)
    sampler.accept(1)
    assert sampler.sample(logits) in (0, 1)


def test_biases() -> None:
    logits = f32([1.0, 0.9, 0.8])
    for text, expected in (("1+0.5", 1), ("0-inf", 1), ("0-0.3,1-inf", 0), ("2+3", 2)):
        biases = text.split(",")
        assert Sampler(SamplingOptions(0, logit_bias=biases)).sample(logits) == (
            2 if "," in text else expected
        )
    with pytest.raises(Error, match="no usable logits"):
        Sampler(SamplingOptions(0, logit_bias=("0-inf", "1-inf", "2-inf"))).sample(logits)
    with pytest.raises(OptionError, match=r"^logit_bias 9\+1: token 9 is outside the vocabulary of 2$"):
        Sampler(SamplingOptions(logit_bias="9+1"), Words("a", "b"))


def test_samplers_that_do_nothing_are_left_out() -> None:
    assert SamplingOptions().active == ("top_k", "top_p", "min_p", "temperature")
    assert SamplingOptions(0).active == ("temperature",)
    assert SamplingOptions(0, xtc_probability=0.5).active == ("top_k", "top_p", "min_p", "xtc", "temperature")
    assert SamplingOptions(mirostat=2, repeat_penalty=2.0).active == ("temperature",)
    assert SamplingOptions(dry_multiplier=1, dry_base=0.5).active == SamplingOptions().active
    greedy = SamplingOptions(0)
    assert greedy.is_greedy
    assert not replace(greedy, xtc_probability=1.0).is_greedy
    assert not replace(greedy, dynatemp_range=1.0).is_greedy
    assert not replace(greedy, samplers="top_k").is_greedy


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({}, ()),
        ({"top_k": 0, "min_p": 0.0}, ()),
        ({"xtc_threshold": 0.2}, ("xtc_threshold",)),
        ({"xtc_threshold": 0.2, "xtc_probability": 0.5}, ()),
        ({"repeat_last_n": 8}, ("repeat_last_n",)),
        ({"presence_penalty": 1.0, "repeat_last_n": 8}, ()),
        ({"dry_base": 2.0}, ("dry_base",)),
        ({"samplers": "top_k", "top_p": 0.5}, ("top_p",)),
        ({"samplers": "top_k", "top_k": 5}, ()),
        ({"mirostat": 1, "top_k": 5, "mirostat_tau": 3.0}, ("top_k",)),
        ({"mirostat_tau": 3.0}, ("mirostat_tau",)),
    ],
)
def test_options_without_effect(options: dict[str, Any], unused: tuple[str, ...]) -> None:
    assert SamplingOptions(**options).unused == unused


# ---- flags ----


def test_defaults_are_llama_cpp_s() -> None:
    o = SamplingOptions()
    assert ";".join(o.samplers) == "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"
    assert (o.dry_base, o.dry_allowed_length, o.dry_penalty_last_n) == (1.75, 2, -1)
    assert o.dry_sequence_breakers == ("\n", ":", '"', "*")
    assert (o.xtc_threshold, o.mirostat_tau, o.mirostat_eta) == (0.1, 5.0, 0.1)
    assert SamplingOptions(sampling_seq="edskypmxt").order == o.samplers


@pytest.mark.parametrize(
    "flags",
    [
        "--presence-penalty 5",
        "--frequency-penalty 5",
        "--repeat-penalty 2",
        "--dry-multiplier 50 --dry-allowed-length 1 --dry-sequence-breaker none",
        "-l 264-inf --logit-bias 262-100",
        "--xtc-probability 1 --xtc-threshold 0.01",
        "--typical 0.2 --samplers typ_p",
        "--mirostat 2 --temp 1 --mirostat-ent 9",
        "--mirostat 1 --temp 1 --mirostat-lr 0.5",
        "--dynatemp-range 2 --dynatemp-exp 0.5",
        "--sampling-seq k --top-k 9",
    ],
)
def test_flags_change_the_text(run: Run, flags: str) -> None:
    """Of a text that the likeliest tokens make without them; the same again with the same seed."""
    args = ("run", "-p", "Tom ran. Tom ran. Tom ran. Tom", "-n", "60", "--temp", "0", "-s", "3", "-q")
    plain, changed = run(*args), run(*args, *flags.split())
    assert changed[::2] == (0, "")
    assert plain[1] != changed[1]
    assert run(*args, *flags.split()) == changed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--presence-penalty x", "--presence-penalty is x, a number from -1e6 to 1e6 is needed"),
        ("--presence-penalty nan", "--presence-penalty is nan, a number from -1e6 to 1e6 is needed"),
        ("--presence-penalty inf", "--presence-penalty is inf, a number from -1e6 to 1e6 is needed"),
        ("--frequency-penalty -", "--frequency-penalty is -, a number from -1e6 to 1e6 is needed"),
        ("--top-nsigma -2", "--top-nsigma is -2, a number from 0 up, or -1 (off) is needed"),
        ("--top-n-sigma x", "--top-nsigma is x, a number from 0 up, or -1 (off) is needed"),
        ("--typical 1.5", "--typical is 1.5, a number from 0 to 1 (off) is needed"),
        ("--xtc-probability 2", "--xtc-probability is 2, a number from 0 to 1 is needed"),
        ("--xtc-threshold -1", "--xtc-threshold is -1, a number from 0 to 1 is needed"),
        ("--dry-multiplier -1", "--dry-multiplier is -1, a number from 0 to 1000000.0 is needed"),
        ("--dry-allowed-length 1.5", "--dry-allowed-length is 1.5, an integer from 0 up is needed"),
        (
            "--dry-penalty-last-n -2",
            "--dry-penalty-last-n is -2, an integer from 0 (off) up, or -1 for all tokens",
        ),
        ("--mirostat 3", "--mirostat is 3, an integer from 0 to 2 is needed"),
        ("--mirostat-ent -1", "--mirostat-ent is -1, a number from 0 to 100 is needed"),
        ("--mirostat-lr x", "--mirostat-lr is x, a number from 0 to 100 is needed"),
        ("-l 5", "-l is 5, a token and a number are needed, as in 15043+1 or 15043-inf"),
        ("-l 5+", "-l is 5+, a token and a number are needed"),
        ("-l 5+inf", "-l is 5+inf, a token and a number are needed"),
        ("-l a+1", "-l is a+1, a token and a number are needed"),
        ("--logit-bias 5+1x", "-l is 5+1x, a token and a number are needed"),
        ("-l 99999+1", "-l 99999+1: token 99999 is outside the vocabulary of 1024"),
        (
            "--samplers top_x",
            "--samplers has the unknown sampler top_x; there are penalties, dry, top_n_sigma",
        ),
        ("--samplers top_k;;tempe", "--samplers has the unknown sampler tempe; there are"),
        ("--samplers k", "--samplers has the unknown sampler k; there are"),
        ("--sampling-seq kz", "--sampling-seq has the unknown letter z; there are e penalties, d dry"),
        ("--sampling-seq K", "--sampling-seq has the unknown letter K; there are"),
        ("--sampler-seq top_k", "--sampling-seq has the unknown letter o; there are"),
        (
            "--sampling-seq k --samplers top_p",
            "--samplers and --sampling-seq are both given, there is one order",
        ),
        ("--dynatemp-range -1", "--dynatemp-range is -1, a number from 0 to 1000000.0 is needed"),
    ],
)
def test_bad_values(run: Run, flags: str, sentence: str) -> None:
    code, out, err = run("run", *flags.split(), "-n", "1")
    assert (code, out) == (2, "")
    assert err.startswith(f"graphsched: {sentence}")
    assert err.count("\n") == 1


def test_an_empty_breaker(run: Run) -> None:
    sentence = "graphsched: --dry-sequence-breaker is empty, a text is needed\n"
    assert run("run", "--dry-sequence-breaker", "") == (2, "", sentence)


def test_breakers_as_typed() -> None:
    def breakers(*given: str) -> tuple[str, ...]:
        found: tuple[str, ...] = SamplingOptions(dry_sequence_breakers=given).dry_sequence_breakers
        return found

    assert breakers("\\n", "\\t.", "\\x") == ("\n", "\t.", "\\x")
    assert breakers("a", "none") == ()
    assert breakers("none", "a", "a") == ("a",)


def test_flags_without_effect_are_named(run: Run) -> None:
    args = ("run", "-n", "0", "-p", "a", "--temp", "0", "--no-timings")
    err = run(*args, "--xtc-threshold", "0.2", "--dry-base", "2")[2]
    assert err == (
        "hint: without effect: --dry-base, --xtc-threshold, as what they are about is off, or not among the samplers\n"
    )
    assert run(*args, "--samplers", "top_k;temperature", "--top-p", "0.5")[2].startswith(
        "hint: without effect: --top-p, "
    )
    assert run(*args, "--presence-penalty", "1")[2] == ""


@pytest.mark.parametrize(
    ("options", "outdone"),
    [
        ({"seed": 3, "top_k": 5}, ()),
        ({"temperature": 0.0}, ()),
        ({"temperature": 0.0, "seed": 3, "top_k": 5, "min_p": 0.5}, ("seed", "top_k", "min_p")),
        ({"temperature": 0.0, "presence_penalty": 1.0, "seed": 3}, ("seed",)),
        ({"temperature": 0.0, "xtc_probability": 0.5, "seed": 3, "top_k": 5}, ()),
        (
            {
                "temperature": 0.0,
                "samplers": "top_k;penalties;temperature",
                "repeat_penalty": 2.0,
                "top_k": 5,
            },
            (),
        ),
    ],
)
def test_options_that_do_not_change_the_likeliest_token(
    options: dict[str, Any], outdone: tuple[str, ...]
) -> None:
    assert SamplingOptions(**options).outdone == outdone
