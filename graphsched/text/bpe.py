"""Byte-level BPE vocabularies (`tokenizer.ggml.model = gpt2`): words are cut, listed pairs merge in them."""

from functools import cached_property
from typing import Final

from graphsched.gguf.format import shown
from graphsched.text.merge import merge, per_word
from graphsched.text.pretokenizers import KNOWN
from graphsched.text.vocab import Fields, TokenType, Vocab


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte: itself where it has one, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(b if b in visible else next(spare)) for b in range(256)]


BYTE_CHARACTERS: Final = _byte_characters()
_TO_BYTE: Final = {ord(c): chr(b) for b, c in enumerate(BYTE_CHARACTERS)}
_NORMAL: Final = int(TokenType.NORMAL)
_ALPHABET: Final = frozenset(BYTE_CHARACTERS)


_MISSING: Final = "is missing, so text may be cut otherwise than the model was trained on"


class BpeCoder:
    """Text between special tokens -> ids, id -> bytes."""

    def __init__(self, vocab: Vocab, fields: Fields) -> None:
        given = fields.text("ggml.pre")
        name = given or "default"
        if name not in KNOWN:
            way_out = "--override-kv tokenizer.ggml.pre=str:NAME takes another one"
            what = f"names the unknown pre-tokenizer {shown(name)}, known are {', '.join(KNOWN)}; {way_out}"
            raise fields.fail("ggml.pre", what)
        self.notes: tuple[str, ...] = () if given else (str(fields.fail("ggml.pre", _MISSING)),)
        self._pre = KNOWN[name]
        self.add_bos, self.add_space_prefix = self._pre.add_bos, False
        self._vocab = vocab
        self._merges = fields.strings("ggml.merges")
        self._ignore_merges = fields.flag("ggml.ignore_merges", self._pre.ignore_merges)
        self._words = per_word(self._word)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Token ids of a text without special tokens."""
        return self._words(self._pre.split(text))

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        text = self._vocab.tokens[token]
        if self._vocab.kinds[token] == _NORMAL and _ALPHABET.issuperset(text):
            return text.translate(_TO_BYTE).encode("latin-1")
        return text.encode("utf-8", "surrogateescape")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return self._vocab.plain_ids()

    @cached_property
    def _ranks(self) -> dict[str, int]:
        # keyed by "left right" as in the file, since no symbol has a space in it; the first of equals counts
        n = len(self._merges)
        return dict(zip(reversed(self._merges), range(n - 1, -1, -1), strict=True))

    def _word(self, word: str) -> list[int]:
        ids, ranks = self._ids, self._ranks
        coded = word.encode("utf-8", "surrogateescape").decode("latin-1").translate(BYTE_CHARACTERS)
        if self._ignore_merges and coded in ids:
            return [ids[coded]]
        symbols = merge(list(coded), lambda left, right: ranks.get(f"{left} {right}"))
        # a merge may lead to a text that is no token, and a vocabulary may lack bytes, which are lost then
        tokens = [t for s in symbols for t in ([s] if s in ids else s)]
        return [ids[t] for t in tokens if t in ids]
