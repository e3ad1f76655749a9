"""Quantised checkpoints: what the integers stand for is what is written, and what is not understood is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_folders import Floats, Tensors, drawn, folder_of
from numpy.typing import NDArray

from graphsched.cli import main as cli
from graphsched.convert.floats import widened
from graphsched.convert.recipes import permute_rows
from graphsched.gguf.loader import open_model

pytest.importorskip("safetensors")
UP, DOWN, K = (f"model.layers.1.{n}.weight" for n in ("mlp.up_proj", "mlp.down_proj", "self_attn.k_proj"))
CHANGED = {UP: "blk.1.ffn_up.weight", DOWN: "blk.1.ffn_down.weight", K: "blk.1.attn_k.weight"}


def compressed(form: str, weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    found = {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}
    return {"quantization_config": found | more}


def per_row(w: Floats) -> tuple[Tensors, Floats]:
    scale = np.abs(w).max(1, keepdims=True) / 127
    codes = np.round(w / scale).astype(np.int8)
    return {"": codes, "_scale": scale.astype(np.float32)}, codes * scale


def per_tensor(w: Floats) -> tuple[Tensors, Floats]:
    scale = np.float32(np.abs(w).max() / 127)
    codes = np.round(w / scale).astype(np.int8)
    return {"": codes, "_scale": np.array([scale]), "_zero_point": np.zeros(1, np.int8)}, codes * scale


def in_groups(w: Floats) -> tuple[Tensors, Floats]:
    """Asymmetric, one scale and zero point for 32 columns, the scale in half precision."""
    parts = w.reshape(len(w), -1, 32)
    low, high = parts.min(-1), parts.max(-1)
    scale = ((high - low) / 255).astype(np.float16)
    zero = np.round(-128 - low / scale).clip(-128, 127).astype(np.int8)
    codes = np.round(parts / scale[..., None] + zero[..., None]).clip(-128, 127).astype(np.int8)
    expected = (codes.astype(np.float32) - zero[..., None]) * scale.astype(np.float32)[..., None]
    return {"": codes.reshape(w.shape), "_scale": scale, "_zero_point": zero}, expected.reshape(w.shape)


def packed_words(codes: NDArray[np.int64]) -> NDArray[np.int32]:
    """Eight codes of 4 bits in a word, one after the other, each plus 8."""
    padded = np.pad(codes + 8, ((0, 0), (0, -codes.shape[1] % 8)))
    words = np.zeros((len(codes), padded.shape[1] // 8), np.uint32)
    for i in range(8):
        words |= padded[:, i::8].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def packed(w: Floats, *, shuffled: bool = False, zero: int = 0) -> tuple[Tensors, Floats]:
    """int4, 32 columns to a group; `shuffled` groups are listed by column."""
    rng = np.random.default_rng(5)
    groups = np.arange(w.shape[1]) // 32
    groups = rng.permutation(groups) if shuffled else groups
    scale = np.stack([np.abs(w[:, groups == g]).max(1) / 6 for g in range(groups.max() + 1)], 1)
    scale = scale.astype(np.float32)
    codes = np.round(w / scale[:, groups] + zero).clip(-8, 7).astype(np.int64)
    found: Tensors = {"_packed": packed_words(codes), "_scale": scale}
    found["_shape"] = np.array(w.shape, np.int32)
    if shuffled:
        found["_g_idx"] = groups.astype(np.int32)
    if zero:
        found["_zero_point"] = packed_words(np.full(scale.shape, zero).T).T.copy()
    return found, ((codes - zero) * scale[:, groups]).astype(np.float32)


def fp8(w: Floats, scale: Any, block: tuple[int, int], suffix: str) -> tuple[Tensors, Floats]:
    """The nearest of the 256 values of E4M3 after division by scales of blocks."""
    values = widened(np.arange(256, dtype=np.uint8), "F8_E4M3")
    grid = np.nan_to_num(values, nan=1e9)
    spread = np.repeat(np.repeat(np.atleast_2d(scale), block[0], 0), block[1], 1)[: len(w), : w.shape[1]]
    codes = np.abs(w[..., None] / spread[..., None] - grid).argmin(-1).astype(np.uint8)
    return {"": ("F8_E4M3", codes), suffix: scale}, values[codes] * spread


def fp8_blocks(w: Floats) -> tuple[Tensors, Floats]:
    """Blocks of 40 × 24, which do not divide the matrix."""
    shape = -(-w.shape[0] // 40), -(-w.shape[1] // 24)
    scale = np.random.default_rng(1).uniform(0.0005, 0.001, shape).astype(np.float32)
    return fp8(w, scale, (40, 24), "_scale_inv")


def fp8_powers(w: Floats) -> tuple[Tensors, Floats]:
    """Scales that are powers of two, as their exponents."""
    exponents = np.random.default_rng(1).integers(115, 119, (-(-w.shape[0] // 40), -(-w.shape[1] // 24)))
    found, expected = fp8(w, 2.0 ** (exponents - 127.0), (40, 24), "_scale_inv")
    return found | {"_scale_inv": ("F8_E8M0", exponents.astype(np.uint8))}, expected.astype(np.float32)


INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
INT4 = INT8 | {"num_bits": 4, "group_size": 32, "strategy": "group"}
BLOCKS = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [40, 24]}}
CASES = {
    "rows": (per_row, compressed("int-quantized", INT8)),
    "tensor": (per_tensor, compressed("naive-quantized", INT8 | {"strategy": "tensor"})),
    "groups": (in_groups, compressed("int-quantized", INT8 | {"group_size": 32, "strategy": "group"})),
    "int4": (packed, compressed("pack-quantized", INT4)),
    "int4 shuffled": (lambda w: packed(w, shuffled=True), compressed("pack-quantized", INT4)),
    "int4 asymmetric": (lambda w: packed(w, zero=2), compressed("pack-quantized", INT4)),
    "fp8 blocks": (fp8_blocks, BLOCKS),
    "fp8 powers": (fp8_powers, BLOCKS),
    "fp8 tensor": (
        lambda w: fp8(w, np.float32(0.001), w.shape, "_scale"),
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}},
    ),
    "fp8 rows": (
        lambda w: fp8(
            w, np.linspace(0.0005, 0.001, len(w)).astype(np.float32)[:, None], (1, w.shape[1]), "_scale"
        ),
        {"quantization_config": {"quant_method": "fbgemm_fp8"}},
    ),
}


def quantised(make: Any) -> tuple[Tensors, dict[str, Floats]]:
    tensors: Tensors = dict(drawn())
    expected = {}
    for name in CHANGED:
        parts, expected[name] = make(tensors.pop(name))
        tensors |= {name + suffix: part for suffix, part in parts.items()}
    return tensors, expected


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_that_codes_and_scales_stand_for(tmp_path: Path, case: str) -> None:
    make, config = CASES[case]
    tensors, expected = quantised(make)
    folder, out = folder_of(tmp_path / "hf", tensors, config=config), tmp_path / "out.gguf"
    assert cli.run(["convert", str(folder), str(out), "--outtype", "f32"]) == 0
    with open_model(out) as file:
        for name, gguf in CHANGED.items():
            want = permute_rows(expected[name], 2) if name == K else expected[name]
            np.testing.assert_allclose(file.array(gguf), want, rtol=1e-6)
        np.testing.assert_array_equal(file.array("output.weight"), tensors["lm_head.weight"])


def test_eight_bit_floats() -> None:
    codes = np.array([0x00, 0x01, 0x08, 0x38, 0x7E, 0xB9], np.uint8)
    assert widened(codes, "F8_E4M3").tolist() == [0, 2**-9, 2**-6, 1, 448, -1.125]
    assert np.isnan(widened(np.array([0x7F, 0xFF], np.uint8), "F8_E4M3")).all()
    assert widened(np.array([0x3C, 0x01, 0x7B, 0xC0], np.uint8), "F8_E5M2").tolist() == [1, 2**-16, 57344, -2]
    assert widened(np.array([127, 130, 0], np.uint8), "F8_E8M0").tolist() == [1, 8, 2**-127]


def test_scales_of_activations_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, _ = quantised(per_row)
    for name in (UP, DOWN):
        tensors[name.replace("weight", "input_scale")] = np.ones(1, np.float32)
    folder = folder_of(tmp_path / "hf", tensors, config=compressed("int-quantized", INT8))
    assert cli.run(["convert", str(folder), str(tmp_path / "out.gguf")]) == 0
    assert "up_proj.input_scale" in (err := capsys.readouterr().err)
    assert "is left out, activations are not quantised so" in err


def without_scale(t: Tensors) -> None:
    del t[UP + "_scale"]


def without_codes(t: Tensors) -> None:
    del t[UP]


def plain_with_scale(t: Tensors) -> None:
    t[UP] = t[UP].astype(np.float32)


def other_rows(t: Tensors) -> None:
    t[UP + "_scale"] = np.ones((7, 1), np.float32)


@pytest.mark.parametrize(
    ("change", "config", "sentence"),
    [
        (without_scale, {}, f"hf: tensor {UP} is I8, and nothing says how it is scaled"),
        (without_codes, {}, f"hf: tensor {UP} has {UP}_scale beside it but no weights"),
        (plain_with_scale, {}, f"hf: tensor {UP} is F32 and has {UP}_scale, which is not for it"),
        (
            other_rows,
            {},
            f"hf: tensor {UP}: its scales {UP}_scale have the shape [7, 1] for a matrix of [96, 64]",
        ),
        (
            None,
            {"quant_method": "gptq", "bits": 4},
            "the weights are quantised with gptq 4, which is not read",
        ),
        (
            None,
            {"quant_method": "awq"},
            "the weights are quantised with awq, which is not read; convert reads ",
        ),
        (None, {"quant_method": "bitsandbytes"}, "the weights are quantised with bitsandbytes, which is not"),
        (
            None,
            {"quant_method": "modelopt", "quant_algo": "NVFP4"},
            "quantised with modelopt NVFP4, which is",
        ),
        (None, {"quant_method": "bitnet"}, "quantization_config: llama models have no bitnet weights"),
        (
            None,
            {"quant_method": "fp8", "weight_block_size": [128]},
            "blocks of [128] are no rows and columns",
        ),
        (
            None,
            compressed("marlin-24", INT4)["quantization_config"],
            "quantization_config: the format marlin-24 is not read",
        ),
        (
            None,
            compressed("nvfp4-pack-quantized", INT4 | {"type": "float"})["quantization_config"],
            "group_0 has weights of 4 bits, float, which are not read",
        ),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, config: dict[str, Any], sentence: str
) -> None:
    tensors, _ = quantised(per_row)
    if change is not None:
        change(tensors)
    whole = {"quantization_config": config} if config else compressed("int-quantized", INT8)
    folder, out = folder_of(tmp_path / "hf", tensors, config=whole), tmp_path / "out.gguf"
    assert cli.run(["convert", str(folder), str(out)]) == 2
    assert sentence in (err := capsys.readouterr().err)
    assert err.count("\n") == 1
    assert not out.exists()


def test_a_scale_without_a_config_is_used_too(tmp_path: Path) -> None:
    """Tensors say themselves that they are quantised where config.json has lost the word."""
    tensors, expected = quantised(per_row)
    out = tmp_path / "out.gguf"
    assert cli.run(["convert", str(folder_of(tmp_path / "hf", tensors)), str(out), "--outtype", "f32"]) == 0
    with open_model(out) as file:
        np.testing.assert_allclose(file.array(CHANGED[UP]), expected[UP], rtol=1e-6)
