"""Special tokens of a Hugging Face folder and their ids, collected from all files that name some."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from graphsched.convert.config import read_json
from graphsched.errors import LoadError
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.text.chat import syntax_error

_NAMES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_KEYS: Final = {"unk": "unknown", "sep": "seperator", "pad": "padding"}  # the file format has this spelling
_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


@dataclass(frozen=True)
class AddedToken:
    """A token beside the model's own; `file` names where it is from, `strips` whether it takes spaces beside it."""

    id: int
    text: str
    special: bool
    file: str
    strips: bool = False


def added_tokens(folder: Path, values: Mapping[str, Any], json: str) -> list[AddedToken]:
    """Tokens that the three files add, by id; LoadError if they disagree. `json` is what errors call `values`."""
    found: dict[int, AddedToken] = {}
    for token in (*_listed(values, json), *_decoder(folder), *_by_text(folder)):
        before = found.setdefault(token.id, token)
        if before.text != token.text:
            what = f"token {token.id} is {shown(token.text)}, in {before.file} it is {shown(before.text)}"
            raise LoadError(f"{token.file}: {what}")
    return [found[i] for i in sorted(found)]


def _listed(values: Mapping[str, Any], file: str) -> Iterator[AddedToken]:
    for token in values.get("added_tokens") or ():
        yield _added(token, token.get("id") if isinstance(token, dict) else None, file)


def _decoder(folder: Path) -> Iterator[AddedToken]:
    found = _read(folder, _CONFIG).get("added_tokens_decoder")
    for i, token in (found if isinstance(found, dict) else {}).items():
        yield _added(token, int(i) if str(i).isdecimal() else None, _CONFIG)


def _added(token: Any, i: Any, file: str) -> AddedToken:
    text = token.get("content") if isinstance(token, dict) else None
    if type(i) is not int or not isinstance(text, str):
        raise LoadError(f"{file}: an added token has no id or no text")
    strips = bool(token.get("lstrip") or token.get("rstrip"))
    return AddedToken(i, text, bool(token.get("special")), file, strips)


def _by_text(folder: Path) -> Iterator[AddedToken]:
    """added_tokens.json has ids by text; which of them are special the other files say."""
    special = set(_texts(_read(folder, _MAP))) | set(_texts(_read(folder, _CONFIG)))
    for text, i in _read(folder, _ADDED).items():
        yield _added({"content": text, "special": text in special}, i, _ADDED)


def _texts(values: Mapping[str, Any]) -> Iterator[str]:
    """The texts of all special tokens that a file names."""
    more = values.get("additional_special_tokens")
    for value in (*(values.get(f"{n}_token") for n in _NAMES), *(more if isinstance(more, list) else ())):
        if (text := _text(value)) is not None:
            yield text


def _text(value: Any) -> str | None:
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).exists() else {}


def special_keys(folder: Path, texts: Sequence[str]) -> tuple[dict[str, MetaValue], tuple[str, ...]]:
    """Special ids, whether they are added and the chat template; and sentences about tokens that are not there.

    The texts that the files name come first, then config.json's ids. LoadError for an end token that is not there.
    """
    found = _gguf(folder, len(texts))
    ids, notes = dict(found.special_token_ids), []
    for name, file, text in _named(folder):
        if text in texts:
            if name != "eos" or "eot" not in ids:  # else the post-processor's end took its place
                ids[name] = texts.index(text)
        elif name == "eos":
            raise LoadError(f"{file}: eos_token {shown(text)} is no token of this vocabulary")
        else:
            notes.append(f"{file}: {name}_token {shown(text)} is no token of this vocabulary and left out")
    for name, i in zip(("eot", "eom"), _further_ends(folder, ids.get("eos"), len(texts)), strict=False):
        ids.setdefault(name, i)
    for name, text in {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}.items():
        if name not in ids and text in texts:
            ids[name] = texts.index(text)
    keys: dict[str, MetaValue] = {f"tokenizer.ggml.{_KEYS.get(n, n)}_token_id": i for n, i in ids.items()}
    for name, value in found.add_special_token.items():
        if name in ("bos", "eos") and name in ids:
            keys[f"tokenizer.ggml.add_{name}_token"] = value
    template = _template(found.chat_template)
    if template is not None and (wrong := syntax_error(template)):
        where = printable(folder.name)
        notes.append(f"{where}: the chat template is none, {wrong}; run -i needs --chat-template NAME")
    return keys | ({} if template is None else {"tokenizer.chat_template": template}), tuple(notes)


def _further_ends(folder: Path, eos: int | None, n_vocab: int) -> list[int]:
    """The ends beside the first one that the configs list: of turns, say."""
    listed = (_read(folder, name).get("eos_token_id") for name in ("generation_config.json", "config.json"))
    ids = [i for found in listed if isinstance(found, list) for i in found]
    return [i for i in dict.fromkeys(ids) if type(i) is int and 0 <= i < n_vocab and i != eos]


def _named(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Name, file and text of each special token; tokenizer_config.json comes before special_tokens_map.json."""
    files = {file: _read(folder, file) for file in (_CONFIG, _MAP)}
    for name in _NAMES:
        for file, values in files.items():
            if (text := _text(values.get(f"{name}_token"))) is not None:
                yield name, file, text
                break


def _gguf(folder: Path, n_vocab: int) -> Any:
    """What the library `gguf` finds: ids of config.json, post-processor, chat template."""
    import gguf

    logging.getLogger("gguf.vocab").setLevel(logging.ERROR)
    try:
        return gguf.SpecialVocab(folder, load_merges=False, n_vocab=n_vocab)
    except Exception as e:  # it trusts the files' structure
        what = printable(" ".join(str(e).split()))[:100]
        raise LoadError(f"{printable(folder.name)}: the tokenizer's files cannot be read, {what}") from None


def _template(found: str | Sequence[Any] | None) -> str | None:
    """The default one of several."""
    if found is None or isinstance(found, str):
        return found
    named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
    return next((t for t in (named.get("default"), *named.values()) if isinstance(t, str)), None)
