"""Chats of each family: what its template makes of a conversation, which tokens that is, and what ends an answer.

The templates are the forms that each family's files ship, without tools and dates.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from running import model_path
from tiny.files import SHORT_MODELS as MODELS

from graphsched.cli.interactive import Chat
from graphsched.gguf.loader import open_model
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.session.session import Session, Timings
from graphsched.text.sampling import SamplingOptions
from graphsched.text.tokenizer import Tokenizer, from_metadata

VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = [chr(b) for b in VISIBLE] + [chr(0x100 + i) for i in range(256 - len(VISIBLE))]
NORMAL, CONTROL = 1, 3
MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "So?"},
]


@dataclass(frozen=True)
class Family:
    """A template, the conversation it makes, and the special tokens: `ends` end an answer, `others` do not.

    `keys` are those that a file names by id: eos, and what cannot be told by its text. The model ends an answer with
    `close`, where the template has it or not.
    """

    template: str
    text: str
    ends: str
    close: str
    others: str = ""
    keys: dict[str, str] = field(default_factory=dict)

    def tokenizer(self) -> Tokenizer:
        special = [*self.ends.split(), *self.others.split()]
        tokens = [*ALPHABET, *special]
        named = {f"tokenizer.ggml.{k}_token_id": tokens.index(t) for k, t in self.keys.items()}
        return from_metadata(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "gpt-2",
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": [NORMAL] * 256 + [CONTROL] * len(special),
                "tokenizer.ggml.merges": [],
                "tokenizer.chat_template": self.template,
                "tokenizer.ggml.add_bos_token": "bos" in self.keys,
                **named,
            }
        )


def each(body: str, prompt: str, begin: str = "") -> str:
    """A template that writes every message alike."""
    end = f"{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    return f"{begin}{{% for m in messages %}}{body}{{% endfor %}}{end}"


def by_role(user: str, assistant: str, prompt: str = "", begin: str = "") -> str:
    return each(f"{{% if m.role == 'user' %}}{user}{{% else %}}{assistant}{{% endif %}}", prompt, begin)


CHATML = each(
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\\n' }}", "<|im_start|>assistant{{ '\\n' }}"
)
CHATML_TEXT = (
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"
)
FAMILIES = {
    "llama 2, mixtral": Family(
        by_role("[INST] {{ m.content }} [/INST]", " {{ m.content }}{{ eos_token }}", begin="{{ bos_token }}"),
        "<s>[INST] Hi [/INST] Ho</s>[INST] So? [/INST]",
        "</s>",
        "</s>",
        "<s> <unk>",
        {"bos": "<s>", "eos": "</s>"},
    ),
    "llama 3": Family(
        each(
            "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}",
            "{{ bos_token }}",
        ),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSo?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|end_of_text|> <|eom_id|> <|eot_id|>",
        "<|eot_id|>",
        "<|begin_of_text|> <|start_header_id|> <|end_header_id|>",
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
    ),
    "llama 4": Family(
        each(
            "<|header_start|>{{ m.role }}<|header_end|>\n\n{{ m.content | trim }}<|eot|>",
            "<|header_start|>assistant<|header_end|>{{ '\\n\\n' }}",
            "{{ bos_token }}",
        ),
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|>"
        "<|header_start|>assistant<|header_end|>\n\nHo<|eot|>"
        "<|header_start|>user<|header_end|>\n\nSo?<|eot|><|header_start|>assistant<|header_end|>\n\n",
        "<|end_of_text|> <|eom|> <|eot|>",
        "<|eot|>",
        "<|begin_of_text|> <|header_start|> <|header_end|>",
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
    ),
    "qwen 2, 3": Family(
        CHATML, CHATML_TEXT, "<|im_end|> <|endoftext|>", "<|im_end|>", "<|im_start|>", {"eos": "<|im_end|>"}
    ),
    "qwen base, eos is another": Family(
        CHATML,
        CHATML_TEXT,
        "<|im_end|> <|endoftext|>",
        "<|im_end|>",
        "<|im_start|>",
        {"eos": "<|endoftext|>"},
    ),
    "gemma 2, 3": Family(
        each(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
            "{{ m.content | trim }}<end_of_turn>{{ '\\n' }}",
            "<start_of_turn>model{{ '\\n' }}",
            "{{ bos_token }}",
        ),
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
        "<start_of_turn>user\nSo?<end_of_turn>\n<start_of_turn>model\n",
        "<eos> <end_of_turn>",
        "<end_of_turn>",
        "<bos> <start_of_turn>",
        {"bos": "<bos>", "eos": "<eos>"},
    ),
    "phi 3": Family(
        each("<|{{ m.role }}|>\n{{ m.content }}<|end|>{{ '\\n' }}", "<|assistant|>{{ '\\n' }}"),
        "<|user|>\nHi<|end|>\n<|assistant|>\nHo<|end|>\n<|user|>\nSo?<|end|>\n<|assistant|>\n",
        "<|endoftext|> <|end|>",
        "<|end|>",
        "<|assistant|> <|user|> <|system|>",
        {"eos": "<|endoftext|>"},
    ),
    "deepseek 2, 3": Family(
        by_role(
            "<｜User｜>{{ m.content }}",
            "<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>",
            "<｜Assistant｜>",
            "{{ bos_token }}",
        ),
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>Ho<｜end▁of▁sentence｜><｜User｜>So?<｜Assistant｜>",
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜>",
        {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>"},
    ),
    "glm 4.5": Family(
        by_role(
            "<|user|>\n{{ m.content }}", "<|assistant|>\n{{ m.content }}", "<|assistant|>", "[gMASK]<sop>"
        ),
        "[gMASK]<sop><|user|>\nHi<|assistant|>\nHo<|user|>\nSo?<|assistant|>",
        "<|endoftext|> <|user|> <|observation|>",
        "<|user|>",
        "[gMASK] <sop> <|assistant|> <|system|>",
        {"eos": "<|endoftext|>", "eot": "<|user|>", "eom": "<|observation|>"},
    ),
    "gpt-oss": Family(
        by_role(
            "<|start|>user<|message|>{{ m.content }}<|end|>",
            "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>",
            "<|start|>assistant",
        ),
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Ho<|end|>"
        "<|start|>user<|message|>So?<|end|><|start|>assistant",
        "<|return|> <|call|> <|endoftext|>",
        "<|return|>",
        "<|end|> <|start|> <|channel|> <|message|> <|constrain|>",
        {"eos": "<|return|>"},
    ),
    "bitnet 2b": Family(
        each("{{ m.role | capitalize }}: {{ m.content | trim }}<|eot_id|>", "Assistant: ", "{{ bos_token }}"),
        "<|begin_of_text|>User: Hi<|eot_id|>Assistant: Ho<|eot_id|>User: So?<|eot_id|>Assistant: ",
        "<|end_of_text|> <|eot_id|>",
        "<|eot_id|>",
        "<|begin_of_text|>",
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"},
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def ids_of(tokenizer: Tokenizer) -> list[int]:
    """The prompt that a chat hands to its session."""
    session: Any = SimpleNamespace(tokenizer=tokenizer, timings=Timings())
    chat = Chat(session)
    return chat.session.tokenizer.encode_prompt(chat.dialect.render(MESSAGES))


def test_conversation(family: Family) -> None:
    t = family.tokenizer()
    got = b"".join(t.piece(i, special=True) for i in ids_of(t)).decode()
    assert got == family.text


def test_special_tokens_are_tokens(family: Family) -> None:
    """None is spelled in letters, and none comes twice at the start."""
    t = family.tokenizer()
    texts = [t.piece(i, special=True).decode() for i in ids_of(t) if i >= len(ALPHABET)]
    special = [*family.ends.split(), *family.others.split()]
    assert len(texts) == sum(family.text.count(s) for s in special)
    assert texts[:1] != texts[1:2]


def test_what_ends_an_answer(family: Family) -> None:
    t = family.tokenizer()
    ends = {t.piece(i, special=True).decode() for i in t.eog}
    assert ends == set(family.ends.split())
    assert family.close in ends


FAMILY_OF = {
    "llama": "llama 3",
    "mixtral": "llama 2, mixtral",
    "qwen": "qwen 2, 3",
    "gemma": "gemma 2, 3",
    "phi3": "phi 3",
    "llama4": "llama 4",
    "deepseek2": "deepseek 2, 3",
    "glm4moe": "glm 4.5",
    "gpt-oss": "gpt-oss",
    "bitnet": "bitnet 2b",
}


def family_of(model: str) -> Family:
    """Of the longest name that the model's begins with."""
    return FAMILIES[FAMILY_OF[max((f for f in FAMILY_OF if model.startswith(f)), key=len)]]


def conversation(model: str, again: bool) -> list[str]:
    """Three answers; with `again` the cache is emptied before each, so that all is read anew."""
    file = open_model(model_path(model))
    file.metadata = {**file.metadata, "tokenizer.chat_template": family_of(model).template}
    session = Session(Model(file), SessionOptions(n_ctx=1024, n_ubatch=64, type_k="f32", type_v="f32"))
    chat = Chat(session, n_predict=4, sampling=SamplingOptions(temperature=0))
    told = []
    for text in ("Tom has a red ball. " * 4, "Why?", "Lily likes it."):
        told.append("".join(chat.answer(text)))
        assert session.stop_reason in ("limit", "eog")
        if again:
            session.reset()
            chat._read = []
    session.close()
    return told


@pytest.mark.parametrize("model", MODELS)
def test_every_architecture_chats_with_its_family_s_template(model: str) -> None:
    """What the cache keeps of a conversation changes no answer, rings and latents included."""
    told = conversation(model, again=False)
    assert len(told) == 3
    assert told == conversation(model, again=True)
