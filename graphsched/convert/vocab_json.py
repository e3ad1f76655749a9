"""The BPE model of a tokenizer.json as tokens by id."""

from collections.abc import Mapping
from typing import Any, Final

from graphsched.convert.components import nested
from graphsched.convert.vocab_files import Words
from graphsched.errors import LoadError
from graphsched.gguf.format import shown
from graphsched.text.vocab import TokenType

NO_MERGE: Final = -1e9  # the score of a token that no merge makes


def words_of_json(values: Mapping[str, Any], is_spm: bool, n_vocab: int, where: str) -> Words:
    """The BPE model of a tokenizer.json; of a SentencePiece one the ranks of merges become scores."""
    model = nested(values, "model")
    vocab, merges = model.get("vocab"), model.get("merges")
    if model.get("type") not in ("BPE", None) or not isinstance(vocab, dict) or not isinstance(merges, list):
        raise LoadError(f"{where}: its model is {shown(str(model.get('type')))}, BPE is needed")
    if not all(type(i) is int and 0 <= i < n_vocab for i in vocab.values()):
        raise LoadError(f"{where}: its vocabulary has ids outside the {n_vocab} rows of the matrices")
    pairs = [m.split(" ") if isinstance(m, str) else m for m in merges]
    if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(x, str) for x in p) for p in pairs):
        raise LoadError(f"{where}: its merges are no pairs")
    words = _placed(vocab, is_spm)
    if not is_spm:  # a space inside a part is written as byte-level BPE writes spaces, as llama.cpp does
        words.merges = [" ".join(p.replace(" ", "Ġ") for p in pair) for pair in pairs]
        return words
    rank: dict[str, float] = {}
    for i, pair in enumerate(pairs):
        rank.setdefault("".join(pair), -float(i))
    words.scores = [rank.get(text, NO_MERGE) for text in words.texts]
    if (unknown := model.get("unk_token")) in words.texts:
        words.types[words.texts.index(unknown)] = TokenType.UNKNOWN
    return words


def _placed(vocab: Mapping[str, int], is_spm: bool) -> Words:
    """Tokens at their ids, gaps filled."""
    words = Words("llama" if is_spm else "gpt2")
    for text, i in sorted(vocab.items(), key=lambda item: item[1]):
        pad(words, i)
        words.texts.append(text)
        is_byte = is_spm and len(text) == 6 and text.startswith("<0x")
        words.types.append(TokenType.BYTE if is_byte else TokenType.NORMAL)
    return words


def pad(words: Words, n: int) -> None:
    """Fills up to n tokens: matrices may have more rows than the tokenizer has tokens."""
    for i in range(len(words.texts), n):
        words.texts.append(f"[PAD{i}]")
        words.types.append(TokenType.UNUSED)
