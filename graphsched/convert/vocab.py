"""The tokenizer of a Hugging Face folder as GGUF keys."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from graphsched.convert.components import Components, components_of, nested
from graphsched.convert.config import read_json
from graphsched.convert.special import AddedToken, added_tokens, special_keys
from graphsched.convert.vocab_files import Words, read_merges, read_model
from graphsched.convert.vocab_json import NO_MERGE, pad, words_of_json
from graphsched.errors import LoadError, OptionError
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.given import named
from graphsched.text.pretokenizers import KNOWN
from graphsched.text.vocab import TokenType

_PREFIX: Final = "tokenizer.ggml."
# Of folders with vocab.json and merges.txt, whose class knows how text is cut.
_CLASSES: Final = {"Qwen2Tokenizer": "qwen2", "GPT2Tokenizer": "gpt-2"}


@dataclass(frozen=True)
class TokenizerKeys:
    """Keys `tokenizer.*`, and sentences about what is left out."""

    keys: dict[str, MetaValue]
    notes: tuple[str, ...]


def tokenizer(folder: Path, n_vocab: int, pre: str | None = None) -> dict[str, MetaValue]:
    """The keys of `read_tokenizer`."""
    return read_tokenizer(folder, n_vocab, pre).keys


def read_tokenizer(folder: Path, n_vocab: int, pre: str | None = None) -> TokenizerKeys:
    """All keys `tokenizer.*`; `pre` names the pre-tokenizer where the file's is unknown.

    LoadError for a part of the tokenizer that a file cannot say, OptionError for an unknown `pre`.
    """
    if pre is not None and pre not in KNOWN:
        raise OptionError(f"--pre {printable(pre)}: is no known pre-tokenizer; there are {', '.join(KNOWN)}")
    values = read_json(folder / "tokenizer.json") if (folder / "tokenizer.json").exists() else {}
    words, keys, notes = _read(folder, values, n_vocab, pre)
    _check_pre_is_used(words, pre)
    added = added_tokens(folder, values, "tokenizer.json")
    if words.kind == "gpt2" and not values and not added and (folder / "tokenizer.model").exists():
        added = _llama3_added(len(words.texts))
    _add(words, added, n_vocab)
    special, lost = special_keys(folder, words.texts)
    if words.kind == "gpt2" and values and f"{_PREFIX}bos_token_id" in special:
        keys = {f"{_PREFIX}add_bos_token": False} | keys  # whatever is usual with this pre-tokenizer
    strips = [t.text for t in added if t.strips]
    if strips:
        notes = (
            *notes,
            f"added tokens keep the white space beside them that they should take: {named(strips)}",
        )
    return TokenizerKeys(keys | _keys(words) | special, (*notes, *lost))


def _read(
    folder: Path, values: dict[str, Any], n_vocab: int, pre: str | None
) -> tuple[Words, dict[str, MetaValue], tuple[str, ...]]:
    """The words of a folder's tokenizer, how it treats text, and what is left out of that."""
    json, model, vocab = (folder / n for n in ("tokenizer.json", "tokenizer.model", "vocab.json"))
    if values:  # tokenizer.json says most, so it comes first
        is_spm = nested(values, "model").get("byte_fallback") is True
        components = components_of(values, is_spm)
        words = (
            read_model(model)
            if is_spm and model.exists()
            else words_of_json(values, is_spm, n_vocab, json.name)
        )
        keys, notes = _spaces(components, json.name) if is_spm else _pre(values, components, json.name, pre)
        return words, dict(words.spaces) | keys, notes
    if model.exists():
        words = read_model(model)
        return (
            words,
            dict(words.spaces) if words.kind == "llama" else {f"{_PREFIX}pre": pre or "llama-bpe"},
            (),
        )
    if vocab.exists() and (folder / "merges.txt").exists():
        values = {"model": {"vocab": read_json(vocab), "merges": read_merges(folder / "merges.txt")}}
        return (
            words_of_json(values, False, n_vocab, vocab.name),
            {f"{_PREFIX}pre": pre or _pre_of_class(folder)},
            (),
        )
    raise LoadError(f"{printable(folder.name)}: there is no tokenizer.json and no tokenizer.model")


def _pre_of_class(folder: Path) -> str:
    config = folder / "tokenizer_config.json"
    name = str(read_json(config).get("tokenizer_class") if config.exists() else None).removesuffix("Fast")
    if name not in _CLASSES:
        what = f"vocab.json does not say how text is cut, and tokenizer_class is {shown(name)}"
        raise LoadError(f"{printable(folder.name)}: {what}; --pre NAME says which pre-tokenizer it is like")
    return _CLASSES[name]


def _check_pre_is_used(words: Words, pre: str | None) -> None:
    if pre is not None and words.kind == "llama":
        raise OptionError(f"--pre {pre} is for byte-level vocabularies, this one is of SentencePiece")


def _add(words: Words, added: Iterable[AddedToken], n_vocab: int) -> None:
    for token in added:
        if not 0 <= token.id < n_vocab:
            what = f"added token {token.id}, {shown(token.text)}, is outside"
            raise LoadError(f"{token.file}: {what} the {n_vocab} rows of the matrices")
        pad(words, token.id + 1)
        if words.types[token.id] not in (TokenType.UNKNOWN, TokenType.BYTE):
            words.types[token.id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
        words.texts[token.id] = token.text
    if len(words.texts) > n_vocab:
        raise LoadError(f"its tokenizer has {len(words.texts)} tokens, the matrices have rows for {n_vocab}")
    pad(words, n_vocab)


def _llama3_added(n: int) -> list[AddedToken]:
    """Llama 3's special tokens, which its tiktoken file lacks."""
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    names += ["reserved_special_token_2", "reserved_special_token_3", "start_header_id", "end_header_id"]
    names += ["reserved_special_token_4", "eot_id", *(f"reserved_special_token_{i}" for i in range(5, 251))]
    return [AddedToken(n + i, f"<|{name}|>", True, "tokenizer.model") for i, name in enumerate(names)]


def _keys(words: Words) -> dict[str, MetaValue]:
    keys: dict[str, MetaValue] = {
        f"{_PREFIX}model": words.kind,
        f"{_PREFIX}tokens": tuple(words.texts),
        f"{_PREFIX}token_type": np.array(words.types, np.int32),
    }
    if words.kind == "gpt2":
        return keys | {f"{_PREFIX}merges": tuple(words.merges)}
    scores = np.full(len(words.texts), NO_MERGE, np.float32)
    scores[: len(words.scores)] = words.scores
    return keys | {f"{_PREFIX}scores": scores}


def _pre(
    values: Mapping[str, Any], components: Components, where: str, given: str | None
) -> tuple[dict[str, MetaValue], tuple[str, ...]]:
    """The name that the pre-tokenizer's expressions have in GGUF files, and what of the tokenizer is left out."""
    strange = components.strange if given is None else ()
    left_out = components.left_out if given is None else (*components.left_out, *components.strange)
    known = [(name, p) for name, p in KNOWN.items() if p.patterns == components.patterns]
    if given is None and (strange or not known):
        what = f" ({named(strange)})" if strange else ""
        sentence = f"its pre-tokenizer is none that is known here{what}"
        raise LoadError(f"{where}: {sentence}, --pre NAME says which it is like")
    notes = (f"{where}: {named(left_out)} is left out",) if left_out else ()
    ignores = nested(values, "model").get("ignore_merges") is True
    name = given or next((n for n, p in known if p.ignore_merges == ignores), known[0][0])
    keys: dict[str, MetaValue] = {f"{_PREFIX}pre": name}
    if given is None and KNOWN[name].ignore_merges != ignores:
        keys[f"{_PREFIX}ignore_merges"] = ignores
    return keys, notes


def _spaces(components: Components, where: str) -> tuple[dict[str, MetaValue], tuple[str, ...]]:
    """Whether a text gets a space in front, of a tokenizer of SentencePiece's kind."""
    if components.strange:
        raise LoadError(f"{where}: {named(components.strange)} is nothing that a GGUF file can say")
    return {f"{_PREFIX}add_space_prefix": components.space_prefix}, ()
