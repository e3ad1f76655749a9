"""Every registered architecture against a plain forward pass; and that pass against other engines' logits.

With an exact cache: what is left is rounding of float32, so that any other formula shows.
"""

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from running import EXACT, in_turn, logits_in_pieces, model_path, nmse, reference
from shared import FILES, references, shared
from tiny import early_forward, family_forward, forward, recurrent_forward, special_forward
from tiny.early import EARLY
from tiny.family import FAMILY
from tiny.files import ALL, BARE, MODELS, QUANTS, plain, row
from tiny.recurrent import RECURRENT
from tiny.special import SPECIAL
from tiny.table import ROWS

from graphsched import arch
from graphsched.arch.registry import GROUP
from graphsched.gguf.loader import ModelFile, open_model

EXACT_LIMIT = 1e-9  # NMSE; the best of the tiny models reach 1e-13, that of 27 layers 5e-12


BOTH_WAYS = [name for name, rules in early_forward.RULES.items() if rules.both_ways]  # do not survive cuts


def own_architectures() -> list[str]:
    """Those of the project: a package that is installed beside it may bring more."""
    foreign = {e.name for e in entry_points(group=GROUP)}
    return sorted(set(arch.names()) - foreign)


def test_every_architecture_has_a_row() -> None:
    shown = {r.architecture for r in (ROWS | FAMILY | EARLY | RECURRENT | SPECIAL).values()}
    modules = (forward, family_forward, early_forward, recurrent_forward, special_forward)
    rules = [name for module in modules for name in module.RULES]
    assert sorted(shown) == sorted(rules) == own_architectures()


@pytest.mark.parametrize("name", [*MODELS, "llama-F32", *FAMILY, *EARLY, *RECURRENT, *SPECIAL])
def test_logits_are_those_of_a_plain_forward_pass(name: str) -> None:
    ref = reference(name)
    first = 24 if name in BOTH_WAYS else 7
    got = logits_in_pieces(ref.model, ref.tokens, first, n_threads=2, **EXACT)
    assert nmse(got, ref.logits) <= EXACT_LIMIT
    np.testing.assert_array_equal(got.argmax(axis=1), ref.logits.argmax(axis=1))


@pytest.mark.parametrize("name", ALL)
def test_logits_on_reference_are_those_of_a_plain_forward_pass(name: str) -> None:
    """Quantised weights, too: the reference backend does not round what they multiply."""
    ref = reference(name)
    assert nmse(logits_in_pieces(ref.model, ref.tokens, 24, backend="reference"), ref.logits) <= EXACT_LIMIT


# --- the additional suite ---


def described(file: ModelFile) -> tuple[object, object]:
    """What a plan depends on: keys but for the vocabulary, and types and shapes of tensors."""
    keys = {k: v for k, v in file.metadata.items() if not k.startswith("tokenizer.")}
    return keys, {name: (t.dtype.name, t.shape) for name, t in file.tensors.items()}


@pytest.mark.parametrize("name", references(MODELS + QUANTS))
@pytest.mark.reference
def test_tiny_models_are_the_reference_files_but_for_values(name: str) -> None:
    """So plans of the one are plans of the other: see the snapshots."""
    (tiny,) = (n for n, file in FILES.items() if file == name)
    with open_model(model_path(tiny)) as mine, open_model(model_path(name)) as file:
        assert described(mine) == described(file)


@pytest.mark.parametrize("name", references(MODELS))
@pytest.mark.reference
def test_plain_forward_pass_has_the_logits_of_other_engines(name: str) -> None:
    ref = reference(name)
    with open_model(ref.model) as file:
        architecture = str(file.metadata["general.architecture"])
        prefix = f"{architecture}."
        keys = {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith(prefix)}
        tensors = {n: file.array(n).astype(np.float64) for n in file.tensors}
    got = forward.Model(architecture, keys, tensors).logits(ref.tokens)
    assert nmse(got, ref.logits) <= (2e-5 if "lite" in name else 3e-6)
    assert row(next(n for n, f in FILES.items() if f == name)).architecture == architecture


# Reference files of the families, in which mistakes show: each has one of its name, some have others.
VARIANTS = ("exaone4-swa", "gemma4-moe", "glm4-mrope", "granite-nope", "grok-1", "minicpm-def", "olmo2-swa")
RECURRENT_VARIANTS = (
    "bailingmoe3-mrope",
    "falcon-h1-nonorm",
    "granitehybrid-dense-nope",
    "lfm2-window",
    "mamba-rms",
    "qwen35-sections",
    "qwen3next-old",
)
KEEPING_STATE = [*recurrent_forward.RULES, *RECURRENT_VARIANTS]
SPECIAL_FILES = (
    "deepseek32",
    "deepseek4",
    "gemma3n",
    "glm-dsa",
    "glm5-next",
    "glm5-next-nobound",
    "kimi-k3-moe",
    "laguna",
    "laguna-elem",
    "minicpm3",
    "minimax-m3-msa",
    "mistral3",
    "mistral3-betas",
    "mistral3-moe",
    "mistral4",
    "mistral4-lm05",
    "muse-glimmer-dense",
    "plamo3-dense",
)
OF_LLAMA_CPP = {"exaone": "exaone-dense", "olmo": "olmo-dense", "pangu-embedded": "pangu-embedded-dense"}
OF_LLAMA_CPP |= {"qwen": "qwen-dense", "starcoder": "starcoder-dense"}
OF_LLAMA_CPP |= {"kimi-k3": "kimi-k3-moe", "muse-glimmer": "muse-glimmer-dense", "plamo3": "plamo3-dense"}
EARLY_VARIANTS = ("baichuan-13b", "falcon-7b", "gptneox-seq", "stablelm-par")
EARLY_KNOWN = [OF_LLAMA_CPP.get(name, name) for name in early_forward.RULES]
KNOWN = [*family_forward.RULES, *VARIANTS, *EARLY_KNOWN, *EARLY_VARIANTS, *KEEPING_STATE, *SPECIAL_FILES]


def beside(name: str, suffix: str) -> Path:
    """A reference file of a family: of llama.cpp's own, or of those in which mistakes show."""
    return shared(f"{'llama_cpp_archs' if name in OF_LLAMA_CPP.values() else 'arch_models'}/{name}{suffix}")


def architecture_of(name: str) -> str:
    with open_model(beside(name, ".gguf")) as file:
        return str(file.metadata["general.architecture"])


# The other engine takes GELU from a table of halves, which the layers of gemma3n amplify: with that table it is 2e-7.
# Of minimax-m3 it computes what is sparse with halves.
BY_TABLE = {"gemma", "gemma4", "grok"}
BY_TABLE |= {name for name, rules in early_forward.RULES.items() if rules.act is forward.gelu}
LIMITS = dict.fromkeys(BY_TABLE, 5e-06) | {"gemma3n": 1.1e-4, "minimax-m3": 1e-5}


@pytest.mark.reference
@pytest.mark.parametrize("name", KNOWN)
def test_families_have_the_logits_of_another_engine(name: str) -> None:
    """The prompt and the tokens behind it apart: what a cache loses shows in these only."""
    data = np.load(beside(name, ".npz"))
    path, n = beside(name, ".gguf"), int(data["n_prompt"])
    got = logits_in_pieces(path, data["tokens"], n, backend="reference", **EXACT)
    limit = LIMITS.get(architecture_of(name), EXACT_LIMIT)
    assert nmse(got[:n], data["logits"][:n]) <= limit
    assert nmse(got[n:], data["logits"][n:]) <= limit


@pytest.mark.reference
def test_sparse_attention_that_chooses_everything_is_dense() -> None:
    """The other engine computes this model without an indexer where it does not have flash attention."""
    data, path = np.load(shared("arch_models/minimax-m3.npz")), shared("arch_models/minimax-m3.gguf")
    all_blocks = {"override_kv": ("minimax-m3.attention.indexer.top_k=int:100",)}
    got = logits_in_pieces(path, data["tokens"], 24, backend="reference", **all_blocks, **EXACT)
    assert nmse(got, data["logits"]) <= EXACT_LIMIT


CUTS = [(1, 512), (6, 512), (15, 512), (24, 5)]  # first piece of the prompt, micro-batch


@pytest.mark.parametrize(("name", "cut"), in_turn(KEEPING_STATE, CUTS, pytest.mark.reference))
def test_recurrent_state_survives_any_cut(name: str, cut: tuple[int, int]) -> None:
    data, (first, n_ubatch) = np.load(shared(f"arch_models/{name}.npz")), cut
    path = shared(f"arch_models/{name}.gguf")
    got = logits_in_pieces(path, data["tokens"], first, backend="reference", n_ubatch=n_ubatch, **EXACT)
    for rows in (slice(first), slice(first, data["n_prompt"]), slice(data["n_prompt"], None)):
        assert nmse(got[rows], data["logits"][rows]) <= EXACT_LIMIT


@pytest.mark.reference
@pytest.mark.parametrize("name", KNOWN)
def test_plain_forward_pass_of_families_has_the_logits_of_another_engine(name: str) -> None:
    data = np.load(beside(name, ".npz"))
    with open_model(beside(name, ".gguf")) as file:
        prefix = f"{file.metadata['general.architecture']}."
        keys = {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith((prefix, BARE))}
        tensors = {n: file.array(n).astype(np.float64) for n in file.tensors}
    got = plain(prefix[:-1], keys, tensors).logits(data["tokens"])
    limit = LIMITS.get(prefix[:-1], 5e-11 if prefix[:-1] == "mistral4" else 1e-11)
    for rows in (slice(data["n_prompt"]), slice(data["n_prompt"], None)):
        assert nmse(got[rows], data["logits"][rows]) <= limit
