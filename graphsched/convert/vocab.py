"""The tokenizer of a Hugging Face folder as GGUF keys."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from graphsched.convert.config import read_json
from graphsched.convert.vocab_files import Words, read_model
from graphsched.errors import LoadError
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.text.pretokenizers import KNOWN
from graphsched.text.vocab import TokenType

_PREFIX: Final = "tokenizer.ggml."
_NO_MERGE: Final = -1e9


def tokenizer(folder: Path, n_vocab: int, pre: str | None = None) -> dict[str, MetaValue]:
    """All keys `tokenizer.*`; `pre` names the pre-tokenizer where the file's is unknown."""
    json, model = folder / "tokenizer.json", folder / "tokenizer.model"
    added: list[Any] = []
    keys: dict[str, MetaValue]
    if json.exists():
        values = read_json(json)
        added = values.get("added_tokens") or []
        is_spm = _part(values, "model").get("byte_fallback") is True
        words = read_model(model) if is_spm and model.exists() else _words(values, is_spm, n_vocab, json.name)
        keys = _space_prefix(values) if is_spm else {f"{_PREFIX}pre": pre or _pre(values, json.name)}
    elif model.exists():
        words = read_model(model)
        keys = {} if words.kind == "llama" else {f"{_PREFIX}pre": pre or "llama-bpe"}
        added = [] if words.kind == "llama" else _llama3_added(len(words.texts))
    else:
        raise LoadError(f"{printable(folder.name)}: there is no tokenizer.json and no tokenizer.model")
    _add(words, added, n_vocab, json.name)
    return keys | _keys(words) | _special(folder, words)


def _part(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _words(values: dict[str, Any], is_spm: bool, n_vocab: int, where: str) -> Words:
    """The BPE model of a tokenizer.json; of a SentencePiece one the ranks of merges become scores."""
    model = _part(values, "model")
    vocab, merges = model.get("vocab"), model.get("merges")
    if model.get("type") not in ("BPE", None) or not isinstance(vocab, dict) or not isinstance(merges, list):
        raise LoadError(f"{where}: its model is {shown(str(model.get('type')))}, BPE is needed")
    if not all(type(i) is int and 0 <= i < n_vocab for i in vocab.values()):
        raise LoadError(f"{where}: its vocabulary has ids outside the {n_vocab} rows of the matrices")
    pairs = [m.split(" ") if isinstance(m, str) else m for m in merges]
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(x, str) for x in p) for p in pairs):
        raise LoadError(f"{where}: its merges are no pairs")
    words = Words("llama" if is_spm else "gpt2")
    for text, i in sorted(vocab.items(), key=lambda item: item[1]):
        _pad(words, i)
        words.texts.append(text)
        is_byte = is_spm and len(text) == 6 and text.startswith("<0x")
        words.types.append(TokenType.BYTE if is_byte else TokenType.NORMAL)
    if is_spm:
        rank: dict[str, float] = {}
        for i, pair in enumerate(pairs):
            rank.setdefault("".join(pair), -float(i))
        words.scores = [rank.get(text, _NO_MERGE) for text in words.texts]
        unknown = model.get("unk_token")
        words.types = [
            TokenType.UNKNOWN if t == unknown else k for t, k in zip(words.texts, words.types, strict=True)
        ]
    else:  # a space inside a part is written as byte-level BPE writes spaces, as llama.cpp does
        words.merges = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]
    return words


def _pad(words: Words, n: int) -> None:
    """Fills up to n tokens: matrices may have more rows than the tokenizer has tokens."""
    for i in range(len(words.texts), n):
        words.texts.append(f"[PAD{i}]")
        words.types.append(TokenType.UNUSED)


def _add(words: Words, added: Iterable[Any], n_vocab: int, where: str) -> None:
    for token in added:
        i, text = (token.get("id"), token.get("content")) if isinstance(token, dict) else (None, None)
        if type(i) is not int or not 0 <= i < n_vocab or not isinstance(text, str):
            raise LoadError(f"{where}: an added token is outside the {n_vocab} rows of the matrices")
        _pad(words, i + 1)
        if words.types[i] not in (TokenType.UNKNOWN, TokenType.BYTE):
            words.types[i] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
        words.texts[i] = text
    if len(words.texts) > n_vocab:
        raise LoadError(f"{where}: has {len(words.texts)} tokens, the matrices have rows for {n_vocab}")
    _pad(words, n_vocab)


def _llama3_added(n: int) -> list[dict[str, Any]]:
    """Llama 3's special tokens, which its tiktoken file lacks."""
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    names += ["reserved_special_token_2", "reserved_special_token_3", "start_header_id", "end_header_id"]
    names += ["reserved_special_token_4", "eot_id", *(f"reserved_special_token_{i}" for i in range(5, 251))]
    return [{"id": n + i, "content": f"<|{name}|>", "special": True} for i, name in enumerate(names)]


def _keys(words: Words) -> dict[str, MetaValue]:
    keys: dict[str, MetaValue] = {
        f"{_PREFIX}model": words.kind,
        f"{_PREFIX}tokens": tuple(words.texts),
        f"{_PREFIX}token_type": np.array(words.types, np.int32),
    }
    if words.kind == "gpt2":
        return keys | {f"{_PREFIX}merges": tuple(words.merges)}
    scores = np.full(len(words.texts), _NO_MERGE, np.float32)
    scores[: len(words.scores)] = words.scores
    return keys | {f"{_PREFIX}scores": scores}


def _pre(values: dict[str, Any], where: str) -> str:
    """The name that the pre-tokenizer's expressions have in GGUF files."""
    patterns = tuple(_patterns(values.get("pre_tokenizer")))
    ignore_merges = _part(values, "model").get("ignore_merges") is True
    known = [(name, p) for name, p in KNOWN.items() if p.patterns == patterns]
    if not known:
        raise LoadError(
            f"{where}: its pre-tokenizer is none that is known here, --pre NAME says which it is like"
        )
    return next((name for name, p in known if p.ignore_merges == ignore_merges), known[0][0])


def _patterns(pre: Any) -> Iterable[str]:
    """The regular expressions of a pre-tokenizer, in order."""
    if not isinstance(pre, dict):
        return
    if pre.get("type") == "Sequence":
        for part in pre.get("pretokenizers") or ():
            yield from _patterns(part)
    elif pre.get("type") == "Split":
        yield str(_part(pre, "pattern").get("Regex"))
    elif pre.get("type") == "Digits":
        yield r"\p{N}" if pre.get("individual_digits") else r"\p{N}+"
    elif pre.get("type") == "ByteLevel" and pre.get("use_regex", True):
        yield from KNOWN["gpt-2"].patterns


def _space_prefix(values: dict[str, Any]) -> dict[str, MetaValue]:
    """Whether a text gets a space in front: old files say so in the normalizer, new ones in the pre-tokenizer."""
    parts = [_part(values, "normalizer"), *(_part(values, "normalizer").get("normalizers") or ())]
    old = any(isinstance(p, dict) and p.get("type") == "Prepend" for p in parts)
    new = _part(values, "pre_tokenizer").get("prepend_scheme") in ("first", "always")
    return {f"{_PREFIX}add_space_prefix": old or new}


def _special(folder: Path, words: Words) -> dict[str, MetaValue]:
    """Special ids, whether they are added, and the chat template, as `gguf` finds them."""
    import gguf

    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)
    try:
        found = gguf.SpecialVocab(folder, load_merges=False, n_vocab=len(words.texts))
    except Exception as e:  # it trusts the files' structure
        what = printable(" ".join(str(e).split()))[:100]
        raise LoadError(f"{printable(folder.name)}: the tokenizer's files cannot be read, {what}") from None
    keys: dict[str, MetaValue] = {}
    ids = dict(found.special_token_ids)
    for name, text in {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}.items():
        if name not in ids and text in words.texts:
            ids[name] = words.texts.index(text)
    for name, i in ids.items():
        keys[f"{_PREFIX}{'unknown' if name == 'unk' else 'padding' if name == 'pad' else name}_token_id"] = i
    for name, value in found.add_special_token.items():
        if name in ("bos", "eos") and name in ids:
            keys[f"{_PREFIX}add_{name}_token"] = value
    template = _template(found.chat_template)
    return keys | ({} if template is None else {"tokenizer.chat_template": template})


def _template(found: str | Sequence[Any] | None) -> str | None:
    """The default one of several."""
    if found is None or isinstance(found, str):
        return found
    named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
    return next((t for t in (named.get("default"), *named.values()) if isinstance(t, str)), None)
