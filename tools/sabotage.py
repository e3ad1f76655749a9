"""Plants mistakes and asks whether the tests notice: python tools/sabotage.py [--parts] [--only NAME].

One in each architecture, or with --parts one in each kind of kernel, in the scheduler and in tokenizers.

Each mistake goes into a copy of the checkout without reference files beside it: a plain clone notices.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mistakes import PARTS as MISTAKES_IN_PARTS
from mistakes import Mistake

ROOT = Path(__file__).resolve().parents[1]

PARTS = ("graphsched", "backends", "models", "tests", "tools", "pyproject.toml")

QWEN_NORMS = 'q, k = norm(c, q, blk, "attn_q_norm"), norm(c, k, blk, "attn_k_norm")'
MISTAKES = (
    Mistake("qwen3", "queries and keys without their norms", "models/qwen3.py", QWEN_NORMS, "pass"),
    Mistake(
        "phi3", "the other kind of rotation", "models/phi3.py", 'rope_of(c, "neox")', 'rope_of(c, "norm")'
    ),
    Mistake("llama", "frequency factors forgotten", "models/llama.py", 'if "rope_freqs" in w', "if False"),
    Mistake("mixtral", "weights not normalised", "models/llama.py", "normalised=True", "normalised=False"),
    Mistake("qwen2", "keys without their bias", "models/qwen2.py", "bias=True", "bias=False"),
    Mistake(
        "qwen2moe", "shared expert without its gate", "graphsched/arch/blocks/moe.py", " * sigmoid(gate)", ""
    ),
    Mistake(
        "qwen3moe", "weights not normalised", "models/qwen3moe.py", "normalised=True", "normalised=False"
    ),
    Mistake("gemma2", "scores not capped", "models/gemma2.py", "softcap=c.attn_cap", "softcap=0.0"),
    Mistake("gemma3", "one base for all layers", "models/gemma3.py", "c.base_swa", "c.rope_base"),
    Mistake(
        "llama4",
        "inputs of experts not weighted",
        "models/llama4.py",
        "c.n_expert_used) * weights",
        "c.n_expert_used)",
    ),
    Mistake(
        "deepseek2-lite",
        "scores of a context not stretched",
        "graphsched/arch/blocks/latent.py",
        "return m * m * self",
        "return m * self",
    ),
    Mistake(
        "deepseek2-v3",
        "magnitude of YaRN left in the rotation",
        "graphsched/arch/blocks/latent.py",
        "replace(rope, magnitude=1.0)",
        "rope",
    ),
    Mistake(
        "glm4moe",
        "attention's norm in front of the feed-forward",
        "models/glm4moe.py",
        '"post_attention_norm"',
        '"attn_norm"',
    ),
    Mistake(
        "gpt-oss",
        "the window in the other layers",
        "models/gpt_oss.py",
        "if slides(c, blk) else 0",
        "if not slides(c, blk) else 0",
    ),
    Mistake("bitnet", "gate without SiLU", "models/bitnet.py", "silu(gate)", "gate"),
    Mistake("bitnet-b1.58", "gate not squared", "models/bitnet_b1_58.py", "sqr(relu(gate))", "relu(gate)"),
    Mistake(
        "bitnet-25",
        "the head always tied",
        "models/bitnet_b1_58.py",
        "return head(c, w, x)",
        "return head(c, w, x, tied=True)",
    ),
    Mistake(
        "afmoe",
        "output of attention not gated",
        "models/afmoe.py",
        "gated_heads(blk, out, x, c.n_head, sigmoid)",
        "out",
    ),
    Mistake("arcee", "ReLU not squared", "models/arcee.py", ", relu2)", ", lambda x: x)"),
    Mistake(
        "bailingmoe",
        "weights of experts not scaled",
        "models/bailingmoe.py",
        "scale=c.weights_scale",
        "scale=0.0",
    ),
    Mistake(
        "bailingmoe2",
        "queries and keys without their norms",
        "models/bailingmoe2.py",
        "qk_norm=normed_heads",
        "qk_norm=None",
    ),
    Mistake(
        "chatglm",
        "the other kind of rotation",
        "models/chatglm.py",
        'rope_of(c, "norm")',
        'rope_of(c, "neox")',
    ),
    Mistake(
        "deepseek",
        "weights of experts not scaled",
        "models/deepseek.py",
        "scale=c.weights_scale",
        "scale=0.0",
    ),
    Mistake(
        "dots1",
        "queries and keys without their norms",
        "models/dots1.py",
        "qk_norm=normed_heads",
        "qk_norm=None",
    ),
    Mistake("ernie4_5", "a bias behind attention", "models/ernie4_5.py", "out_bias=False", "out_bias=None"),
    Mistake(
        "ernie4_5-moe",
        "weights not normalised",
        "models/ernie4_5_moe.py",
        "normalised=True",
        "normalised=False",
    ),
    Mistake(
        "exaone-moe",
        "window longer by one",
        "models/exaone_moe.py",
        '"window": c.window}',
        '"window": c.window + 1}',
    ),
    Mistake(
        "exaone4",
        "no norm behind the feed-forward",
        "models/exaone4.py",
        'norm(c, gated_ffn(blk, x), blk, "post_ffw_norm")',
        "gated_ffn(blk, x)",
    ),
    Mistake(
        "exaone4-64",
        "the window in the other layers",
        "models/exaone4.py",
        "c.window if near else 0",
        "0 if near else c.window",
    ),
    Mistake("gemma", "SiLU for GELU", "models/gemma.py", ", activation=geglu", ""),
    Mistake("gemma4", "scores scaled", "models/gemma4.py", "scale=1.0", "scale=0.5"),
    Mistake(
        "gemma4-moe",
        "results of experts not scaled",
        "models/gemma4.py",
        'probs * blk.sized("ffn_down_exps.scale", c.n_expert)',
        "probs",
    ),
    Mistake(
        "glm4",
        "no norm behind attention",
        "models/glm4.py",
        'norm(c, attention, blk, "post_attention_norm")',
        "attention",
    ),
    Mistake("glm4-vision", "the other kind of rotation", "models/glm4.py", '"mrope" if', '"norm" if'),
    Mistake("granite", "logits multiplied", "models/granite.py", "1.0 / c.logit_scale", "c.logit_scale"),
    Mistake(
        "granite-still",
        "rotated all the same",
        "models/granite.py",
        "if c.rotates else None",
        "if c.n_embd else None",
    ),
    Mistake(
        "granitemoe",
        "embedding not scaled",
        "models/granite.py",
        "scaled(embed(c, w, inp), c.embedding_scale)",
        "embed(c, w, inp)",
    ),
    Mistake("grok", "scores not capped", "models/grok.py", "softcap=c.score_cap", "softcap=0.0"),
    Mistake("hunyuan-dense", "base that does not grow", "models/hunyuan_dense.py", ", c.base)", ")"),
    Mistake(
        "hunyuan-moe",
        "weights not normalised",
        "models/hunyuan_moe.py",
        "normalised=True",
        "normalised=False",
    ),
    Mistake(
        "hy_v3",
        "queries and keys without their norms",
        "models/hy_v3.py",
        "qk_norm=normed_heads",
        "qk_norm=None",
    ),
    Mistake("internlm2", "the head tied", "models/internlm2.py", "tied=False", "tied=True"),
    Mistake("mimo2", "attention not scaled", "models/mimo2.py", ", c.value_scale)", ", 0.0)"),
    Mistake("minicpm", "another factor on the embedding", "models/minicpm.py", "12.0", "11.0"),
    Mistake(
        "minimax-m2",
        "queries and keys without their norms",
        "models/minimax_m2.py",
        "qk_norm=normed_whole",
        "qk_norm=None",
    ),
    Mistake(
        "olmo2",
        "queries and keys without their norms",
        "models/olmo2.py",
        "qk_norm=normed_whole",
        "qk_norm=None",
    ),
    Mistake(
        "olmo2-window",
        "window longer by one",
        "models/olmo2.py",
        '"window": c.window}',
        '"window": c.window + 1}',
    ),
    Mistake(
        "olmoe",
        "weights normalised",
        "models/olmoe.py",
        "c.n_expert_used)",
        "c.n_expert_used, normalised=True)",
    ),
    Mistake("phimoe", "weights not normalised", "models/phimoe.py", "normalised=True", "normalised=False"),
    Mistake("qwen2vl", "an epsilon", "models/qwen2vl.py", "rms_eps: float = 0.0", "rms_eps: float = 1e-3"),
    Mistake("qwen3vl", "sections not interleaved", "models/qwen3vl.py", '"imrope"', '"mrope"'),
    Mistake(
        "qwen3vlmoe", "weights not normalised", "models/qwen3vlmoe.py", "normalised=True", "normalised=False"
    ),
    Mistake(
        "seed_oss",
        "attention's norm in front of the feed-forward",
        "models/seed_oss.py",
        '"post_attention_norm"',
        '"attn_norm"',
    ),
    Mistake("smollm3", "the rotation left out in other layers", "models/smollm3.py", "% 4 != 0", "% 4 != 1"),
    Mistake("step35", "experts not clamped", "models/step35.py", "limit=c.clamp)", "limit=0.0)"),
    Mistake("xverse", "the head tied", "models/xverse.py", "tied=False", "tied=True"),
    Mistake(
        "bailingmoe3",
        "latent attention not gated",
        "models/bailingmoe3.py",
        "gated_heads(blk, latent_heads(c, blk, x, inp), x, c.n_head, sigmoid)",
        "latent_heads(c, blk, x, inp)",
    ),
    Mistake("falcon-h1", "no attention", "models/falcon_h1.py", "attention + mamba2_layer", "mamba2_layer"),
    Mistake(
        "granitehybrid", "mixer not scaled", "models/granitehybrid.py", "scaled(y, c.residual_scale)", "y"
    ),
    Mistake(
        "jamba",
        "weights normalised",
        "models/jamba.py",
        "c.n_expert_used)",
        "c.n_expert_used, normalised=True)",
    ),
    Mistake("kimi-linear", "latent attention rotated", "models/kimi_linear.py", "rope: None = None", "pass"),
    Mistake("lfm2", "window longer by one", "models/lfm2.py", "window=c.window)", "window=c.window + 1)"),
    Mistake(
        "lfm2moe",
        "weights not normalised",
        "models/lfm2moe.py",
        "normalised: bool = True",
        "normalised: bool = False",
    ),
    Mistake("mamba", "the gate in front", "models/mamba.py", "x, z = split", "z, x = split"),
    Mistake(
        "mamba2",
        "nothing beside the scan",
        "graphsched/arch/blocks/scan.py",
        'y + h * blk.shaped("ssm_d.", c.n_scan, 1)',
        "y",
    ),
    Mistake(
        "minimax-01",
        "the residual of experts not scaled",
        "models/minimax_01.py",
        "experts(routing, blk, h) + scale(h, by=c.residual_scale)",
        "experts(routing, blk, h) + h",
    ),
    Mistake("nemotron_h", "ReLU not squared", "models/nemotron_h.py", ", relu2)", ", lambda x: x)"),
    Mistake(
        "nemotron_h_moe",
        "no shared expert",
        "models/nemotron_h_moe.py",
        ' + plain_ffn(blk, x, relu2, "_shexp")',
        "",
    ),
    Mistake("plamo2", "the gate behind", "models/plamo2.py", "z, x = split", "x, z = split"),
    Mistake("qwen35", "heads with keys of others", "models/qwen35.py", "tiled=True", "tiled=False"),
    Mistake(
        "qwen35moe", "weights not normalised", "models/qwen35moe.py", "normalised=True", "normalised=False"
    ),
    Mistake("qwen3next", "heads with keys of others", "models/qwen3next.py", "tiled=False", "tiled=True"),
    Mistake("mistral3", "YaRN between other speeds", "models/mistral3.py", "beta_fast=self.beta_fast, ", ""),
    Mistake(
        "mistral3-moe", "weights not normalised", "models/mistral3.py", "normalised=True", "normalised=False"
    ),
    Mistake(
        "mistral4", "queries that do not sharpen", "models/mistral4.py", "if c.temperature:", "if False:"
    ),
    Mistake("laguna", "the other gate", "models/laguna.py", "c.n_head, softplus)", "c.n_head, lambda x: x)"),
    Mistake(
        "laguna-full",
        "the other kind of rotation",
        "models/laguna.py",
        'rope_of(c, "neox")',
        'rope_of(c, "norm")',
    ),
    Mistake("minicpm3", "the other kind of rotation", "models/minicpm3.py", '"neox"', '"norm"'),
    Mistake("plamo3", "one base for all layers", "models/plamo3.py", "c.base_swa if near else ", ""),
    Mistake("muse-glimmer", "full layers rotate", "models/muse_glimmer.py", " if near else (q, k)", ""),
    Mistake(
        "gemma3n",
        "activations of all layers dense",
        "models/gemma3n.py",
        "4, 20, 10,",
        "4, 20, 0,",
    ),
    Mistake("kimi-k3", "no stream kept", "models/kimi_k3.py", "kept.append(x)", "pass"),
    Mistake(
        "deepseek32", "the indexer rotates neighbours", "models/deepseek32.py", 'mode="neox"', 'mode="norm"'
    ),
    Mistake(
        "glm-dsa",
        "each layer its own indexer",
        "models/glm_dsa.py",
        "if c.at(blk.layer).indexed:",
        "if True:",
    ),
    Mistake("minimax-m3", "no local blocks", "models/minimax_m3.py", "local=c.local_blocks", "local=0"),
    Mistake("glm5-next", "no tail", "models/glm5_next.py", "tail=c.with_tail", "tail=False"),
    Mistake("deepseek4", "heads not rotated back", "models/deepseek4.py", "back=True", "back=False"),
    Mistake(
        "deepseek4-wide",
        "every row chosen",
        "models/deepseek4.py",
        "if c.ratio == INDEXED else ()",
        "if False else ()",
    ),
    Mistake("apertus", "no beta below 0", "models/apertus.py", "self.beta + alpha_n", "alpha_n"),
    Mistake(
        "baichuan",
        "no rotation",
        "models/baichuan.py",
        'rope_of(c, "norm") if c.n_layer == 32 else None',
        "None",
    ),
    Mistake("baichuan-13b", "no ALiBi", "models/baichuan.py", "8.0 if", "0.0 if"),
    Mistake(
        "bloom", "slopes of another kind", "graphsched/graph/ops/attention.py", "h - n + 0.5", "h - n + 1.5"
    ),
    Mistake("cohere2", "far layers rotate", "models/cohere2.py", "else (None, 0)", "else (rope, 0)"),
    Mistake(
        "cohere2moe", "sum with the shared expert not halved", "models/cohere2moe.py", "by=0.5", "by=1.0"
    ),
    Mistake("command-r", "logits not scaled", "models/command_r.py", "c.logit_scale)", "1.0)"),
    Mistake("dbrx", "queries, keys and values not clipped", "models/dbrx.py", "clip=c.clip", "clip=0.0"),
    Mistake("exaone", "frequency factors forgotten", "models/exaone.py", "rope_factors(c, w, inp)", "None"),
    Mistake("falcon-40b", "both read one norm", "models/falcon.py", 'norm(c, x, blk, "attn_norm_2")', "h"),
    Mistake(
        "gpt2",
        "positions forgotten",
        "graphsched/arch/blocks/linear.py",
        " + get_rows(positions, inp.pos)",
        "",
    ),
    Mistake(
        "gptneox", "one behind the other", "models/gptneox.py", "x if c.is_parallel else attended", "attended"
    ),
    Mistake("jais", "scores over the root", "models/jais.py", "1.0 / c.head_dim", "c.head_dim**-0.5"),
    Mistake("mpt", "activations not scaled", "models/mpt.py", 'if "ffn.act.scales." in blk', "if False"),
    Mistake("nemotron", "ReLU not squared", "models/nemotron.py", ", relu2)", ", lambda x: x)"),
    Mistake("olmo", "nothing clipped", "models/olmo.py", "clip=c.clip", "clip=0.0"),
    Mistake(
        "openelm",
        "queries and keys without their norms",
        "models/openelm.py",
        "qk_norm=normed_heads",
        "qk_norm=None",
    ),
    Mistake(
        "orion",
        "RMS norms",
        "graphsched/arch/blocks/linear.py",
        "if c.ln_eps and not c.rms_eps else rms_norm(x, eps=c.rms_eps)",
        "if False else rms_norm(x, eps=c.ln_eps)",
    ),
    Mistake(
        "pangu-embedded",
        "the other kind of rotation",
        "models/pangu_embedded.py",
        'rope_of(c, "neox")',
        'rope_of(c, "norm")',
    ),
    Mistake("phi2", "no bias on the logits", "models/phi2.py", "bias=True", "bias=False"),
    Mistake(
        "plamo",
        "one behind the other",
        "models/plamo.py",
        "gated_ffn(blk, h)",
        'gated_ffn(blk, norm(c, x, blk, "attn_norm") + h)',
    ),
    Mistake(
        "qwen", "the other kind of rotation", "models/qwen.py", 'rope_of(c, "neox")', 'rope_of(c, "norm")'
    ),
    Mistake(
        "stablelm-12b",
        "queries and keys without their norms",
        "models/stablelm.py",
        'if "attn_q_norm" in blk',
        "if False",
    ),
    Mistake("starcoder", "GELU left out", "models/starcoder.py", ", gelu)", ", lambda x: x)"),
    Mistake("starcoder2", "GELU left out", "models/starcoder2.py", ", gelu)", ", lambda x: x)"),
    Mistake(
        "rnd1",
        "queries and keys without their norms",
        "models/rnd1.py",
        "qk_norm=normed_heads",
        "qk_norm=None",
    ),
    Mistake("llada", "a bias behind attention", "models/llada.py", "out_bias=False", "out_bias=None"),
    Mistake("dream", "tokens see only those in front", "models/dream.py", "causal=False", "causal=True"),
)


def copied(folder: Path) -> Path:
    """The checkout's code and tests, links as links."""
    folder.mkdir()
    for part in PARTS:
        source, target = ROOT / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def noticed(tree: Path, mistake: Mistake) -> str:
    """What the tests of the model say about it: `caught`, `not caught`, or why there is no answer."""
    file = tree / mistake.file
    whole = file.read_text(encoding="utf-8")
    if mistake.right not in whole:
        return "not planted: the code has changed"
    file.write_text(whole.replace(mistake.right, mistake.wrong), encoding="utf-8")
    try:
        return verdict(tree, mistake)
    finally:
        file.write_text(whole, encoding="utf-8")


def verdict(tree: Path, mistake: Mistake) -> str:
    test = f"tests/test_tiny.py::test_logits_on_reference_are_those_of_a_plain_forward_pass[{mistake.model}]"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *(mistake.test or test).split(),
    ]
    command += ["-k", mistake.only] if mistake.only else []
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    known = {0: "not caught", 1: "caught"}
    return known.get(done.returncode, f"no answer: {done.stdout[-200:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="mistakes of one model")
    parser.add_argument("--parts", action="store_true", help="mistakes in kernels, scheduler and tokenizers")
    given = parser.parse_args()
    mistakes, found = MISTAKES_IN_PARTS if given.parts else MISTAKES, []
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder, "clone"))
        for mistake in (m for m in mistakes if given.only in ("", m.model)):
            found.append(noticed(tree, mistake))
            print(f"{mistake.model:16} {mistake.what:44} {found[-1]}", flush=True)
    print(f"{found.count('caught')} of {len(found)} caught")
    return int(found.count("caught") < len(found))


if __name__ == "__main__":
    sys.exit(main())
