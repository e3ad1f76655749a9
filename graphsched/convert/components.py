"""The components of a tokenizer.json: those that GGUF can express, and the names of those that it cannot."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphsched.text.pretokenizers import KNOWN

_SPACE: Final = "▁"
_DECODERS: Final = {
    "gpt2": ("ByteLevel",),
    "llama": ("Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"),
}
_NFC: Final = "normalizer NFC"


@dataclass(frozen=True)
class Components:
    """What a tokenizer.json does beside merging.

    patterns: regular expressions that cut a text into words, applied one after the other. strange: components that GGUF
    cannot express, which are refused. left_out: those that are dropped with a note. space_prefix: whether a text gets a
    space in front.
    """

    patterns: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    space_prefix: bool = False


def nested(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A nested object, empty if there is none."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def flat(values: Mapping[str, Any], key: str, inner: str) -> list[dict[str, Any]]:
    """The components under a key in order, nested sequences flattened."""
    found = values.get(key)
    if not isinstance(found, dict):
        return []
    if found.get("type") != "Sequence":
        return [found]
    return [p for item in found.get(inner) or () for p in flat({"": item}, "", inner)]


def components_of(values: Mapping[str, Any], is_spm: bool) -> Components:
    """The components of a tokenizer.json, read as SentencePiece (`is_spm`) or as byte-level BPE."""
    normalizers = flat(values, "normalizer", "normalizers")
    cuts = flat(values, "pre_tokenizer", "pretokenizers")
    strange = [*_strange_model(values), *_strange_decoders(values, "llama" if is_spm else "gpt2")]
    strange += _strange_ends(values)
    if is_spm:
        return _spm(normalizers, cuts, strange)
    names = [f"normalizer {_kind(n)}" for n in normalizers]
    left_out = tuple(n for n in names if n == _NFC)
    strange += [n for n in names if n != _NFC] + [f"pre_tokenizer {s}" for s in _strange_cuts(cuts)]
    return Components(tuple(_patterns(cuts)), tuple(strange), left_out)


def _kind(component: Mapping[str, Any]) -> str:
    return str(component.get("type"))


def _strange_model(values: Mapping[str, Any]) -> Iterator[str]:
    model = nested(values, "model")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            yield f"model {key}"


def _strange_decoders(values: Mapping[str, Any], kind: str) -> Iterator[str]:
    for decoder in flat(values, "decoder", "decoders"):
        if _kind(decoder) not in _DECODERS[kind]:
            yield f"decoder {_kind(decoder)}"


def _strange_ends(values: Mapping[str, Any]) -> Iterator[str]:
    """A file can say that one token is put in front of a text and one behind it."""
    for p in flat(values, "post_processor", "processors"):
        single = p.get("single") if _kind(p) == "TemplateProcessing" else []
        is_special = [isinstance(item, dict) and "SpecialToken" in item for item in single or ()]
        if is_special.count(False) != (1 if is_special else 0) or is_special[1:-1].count(True):
            yield "post_processor TemplateProcessing"
        if _kind(p) not in ("TemplateProcessing", "ByteLevel"):
            yield f"post_processor {_kind(p)}"


def _spm(normalizers: list[dict[str, Any]], cuts: list[dict[str, Any]], strange: list[str]) -> Components:
    """Whether a text gets a space in front: old files say so in the normalizer, new ones in the pre-tokenizer."""
    # Anything but "put a space in front" and "write spaces as ▁" is beyond what GGUF can express.
    prefix = False
    for n in normalizers:
        is_space = n.get("content") == _SPACE and nested(n, "pattern").get("String") == " "
        is_prefix = _kind(n) == "Prepend" and n.get("prepend") == _SPACE
        prefix = prefix or is_prefix
        if not (is_prefix or (_kind(n) == "Replace" and is_space)):
            strange.append(f"normalizer {_kind(n)}")
    for c in cuts:
        if _kind(c) != "Metaspace" or c.get("replacement", _SPACE) != _SPACE:
            strange.append(f"pre_tokenizer {_kind(c)}")
        scheme = c.get("prepend_scheme", "always" if c.get("add_prefix_space", True) else "never")
        prefix = prefix or (_kind(c) == "Metaspace" and scheme in ("first", "always"))
    return Components(strange=tuple(strange), space_prefix=prefix)


def _strange_cuts(cuts: list[dict[str, Any]]) -> Iterator[str]:
    """Components of a byte-level pre-tokenizer that are more than an expression whose matches are words."""
    for i, c in enumerate(cuts):
        kind, is_last = _kind(c), i == len(cuts) - 1
        if kind == "ByteLevel":
            if c.get("add_prefix_space"):
                yield "ByteLevel with add_prefix_space"
            elif not is_last:
                yield "ByteLevel in front of others"
        elif kind == "Split":
            yield from _strange_split(
                c, is_alone=i == 0 and _kind(cuts[-1]) == "ByteLevel" and len(cuts) == 2
            )
        elif kind != "Digits":
            yield kind
    if not cuts or _kind(cuts[-1]) != "ByteLevel":
        yield "without ByteLevel"


def _strange_split(split: Mapping[str, Any], is_alone: bool) -> Iterator[str]:
    """Matches must be words, and so must be what lies between them; the lone expressions match everything."""
    behavior, inverted = split.get("behavior"), split.get("invert") is True
    is_words = (behavior, inverted) == ("Isolated", False)
    if not (is_words or (is_alone and (behavior, inverted) == ("Removed", True))):
        yield f"Split {behavior}{' inverted' if inverted else ''}"


def _patterns(cuts: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The regular expressions of a pre-tokenizer, in order."""
    for c in cuts:
        if _kind(c) == "Split":
            yield str(nested(c, "pattern").get("Regex"))
        elif _kind(c) == "Digits":
            yield r"\p{N}" if c.get("individual_digits") else r"\p{N}+"
        elif _kind(c) == "ByteLevel" and c.get("use_regex", True):
            yield from KNOWN["gpt-2"].patterns
