r"""How byte-pair tokenizers cut text into words before merging: `tokenizer.ggml.pre` -> regular expressions.

The expressions run one after the other, each on the pieces that the ones before it left; what an expression
does not match stays a piece of its own. They are those of the models' own tokenizer.json where that is known,
not the adaptations that engines without \p{Lu} or (?i:) need.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import regex  # type: ignore[import-untyped]

_ENDINGS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_SLASH: Final = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2: Final = rf"{_ENDINGS}|{_WORD}|\p{{N}}|{_REST}"
_NOT_HAN: Final = r"&&[^\p{Han}]"
# cased letters as DeepSeek LLM lists them, which is no Unicode property
_DEEPSEEK_LETTERS: Final = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_CJK: Final = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK3: Final = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK3_CJK: Final = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_YOUTU_CJK: Final = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
    "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
)
_AFMOE_SCRIPTS: Final = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f"
    "\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_NO_PUNCTUATION: Final = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
# white space in pieces of these lengths at most, where no word follows
_FEWER_SPACES: Final = "|".join(
    [*(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)), r"\s{1,2}(?!\S)", r"\s"]
)


def _cased(letters: str, ending: str) -> str:
    """Words that change from upper to lower case at most once, `letters` limiting what counts as a letter."""
    upper = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{letters}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{letters}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    return f"{start}{upper}*{lower}+{ending}|{start}{upper}+{lower}*{ending}"


@dataclass(frozen=True)
class PreTokenizer:
    """Expressions, and what the models that use them do besides: whole words first, BOS by default."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    @cached_property
    def _compiled(self) -> tuple[Any, ...]:
        # version 1: sets may be intersected (&&); the group makes split() keep the matches
        return tuple(regex.compile(f"({p})", regex.V1) for p in self.patterns)

    def split(self, text: str) -> list[str]:
        """The words of a text, in order and with nothing left out."""
        words = [text]
        for pattern in self._compiled:
            words = [piece for word in words for piece in pattern.split(word) if piece]
        return words


_FAMILIES: Final[dict[str, PreTokenizer]] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2 mpt olmo jais phi-2 trillion gigachat mellum exaone4 a.x-4.0 granite-docling modern-bert "
    # these also close a text with a separator, which is for embeddings
    "jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe": PreTokenizer((_GPT2,)),
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2": PreTokenizer((r"\p{N}", _GPT2)),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": PreTokenizer(
        (_LLAMA3,), True, True
    ),
    "dbrx smaug-bpe glm4 chatglm-bpe": PreTokenizer((_LLAMA3,)),
    "glm5": PreTokenizer((_LLAMA3,), ignore_merges=True),
    "qwen2 stablelm2 hunyuan megrez deepseek-r1-qwen grok-2 solar-open kormo f2llmv2": PreTokenizer(
        (_QWEN2,)
    ),
    "laguna": PreTokenizer((r"[^\n]+|\n+", _QWEN2)),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", rf"{_ENDINGS}|{_WORD}|\p{{N}}+|{_REST}"), ignore_merges=True),
    "ufakzeka": PreTokenizer((rf"{_WORD}|\p{{N}}|{_REST}",)),
    "jais-2": PreTokenizer((_LLAMA3.replace(r"\s+(?!\S)|\s+", _FEWER_SPACES),)),
    "exaone-moe": PreTokenizer(
        (
            rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "poro-chat bloom gpt3-finnish": PreTokenizer((_NO_PUNCTUATION,)),
    "viking": PreTokenizer((_NO_PUNCTUATION, r"\p{N}")),
    "qwen35": PreTokenizer(
        (_QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"),)
    ),
    "seed-coder": PreTokenizer(
        (rf"{_ENDINGS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",)
    ),
    "bailingmoe bailingmoe2 llada-moe": PreTokenizer(
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
            r"|\s+(?!\S)|\s+",
        )
    ),
    "tekken": PreTokenizer((rf"{_cased('', '')}|\p{{N}}|{_REST_SLASH}",), True, True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer(
        (rf"{_cased('', f'{_ENDINGS}?')}|\p{{N}}{{1,3}}|{_REST_SLASH}",)
    ),
    "cohere2moe tiny_aya": PreTokenizer(
        (r"\d{1,3}(?=(?:\d{3})*\b)", rf"{_cased('', f'{_ENDINGS}?')}|\p{{N}}{{1,3}}|{_REST_SLASH}")
    ),
    "granite-embed-multi-97m": PreTokenizer(
        (rf"{_cased('', f'{_ENDINGS}?')}|\p{{N}}{{1,3}}|{_REST_SLASH}",), ignore_merges=True
    ),
    "youtu": PreTokenizer((_YOUTU_CJK, rf"{_cased('', f'{_ENDINGS}?')}|\p{{N}}|{_REST_SLASH}"), True),
    "kimi-k2": PreTokenizer((rf"[\p{{Han}}]+|{_cased(_NOT_HAN, f'{_ENDINGS}?')}|\p{{N}}{{1,3}}|{_REST}",)),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"(?<!\s)\s+$",  # without the look-behind quadratic in a run of spaces
            _DEEPSEEK_CJK,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}")),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": PreTokenizer((r"\p{N}{1,3}", _DEEPSEEK3_CJK, _DEEPSEEK3)),
    # digits in threes from the end of a number
    "afmoe": PreTokenizer((r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _AFMOE_SCRIPTS, _DEEPSEEK3)),
    "spark2_5": PreTokenizer(
        (r"\p{N}{1,3}", _DEEPSEEK3_CJK, _DEEPSEEK3.replace(r"[\r\n]*|\s*[\r\n]+", r"|[\r\n]"), r"\p{N}")
    ),
}
KNOWN: Final = {name: pre for names, pre in _FAMILIES.items() for name in names.split()}
