"""Chat templates for models whose files have none or a wrong one, by name; and reading a user's own."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.gguf.format import shown

# BitNet b1.58 2B-4T, as its own program (ChatFormat of bitnet.cpp's gpu folder) writes a conversation.
BITNET: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
_BITNET_NAMES: Final = ("bitnet-b1.58", "bitnet-25")
# In the template of published GGUF files: it ends no turn with <|eot_id|>, so that the model talks to itself.
_WRONG: Final = "BITNETAssistant"


def _by_role(before: str, after: str, prompt: str) -> str:
    """Messages that all look alike; ROLE stands for who speaks, `prompt` is what the answer follows."""
    start, _, middle = before.partition("ROLE")
    return (
        "{% for m in messages %}{{ '"
        + start
        + "' + m['role'] + '"
        + middle
        + "' + m['content'] + '"
        + after
        + "' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '" + prompt + "' }}{% endif %}"
    )


def _turns(system: str, user: str, assistant: str, prompt: str = "") -> str:
    """Messages by who speaks; TEXT stands for what is said."""
    parts = {"system": system, "user": user, "assistant": assistant}
    cases = [
        f"{{% {'elif' if i else 'if'} m['role'] == '{role}' %}}" + _said(text)
        for i, (role, text) in enumerate(parts.items())
    ]
    ending = "{% if add_generation_prompt %}{{ '" + prompt + "' }}{% endif %}" if prompt else ""
    return "{% for m in messages %}" + "".join(cases) + "{% endif %}{% endfor %}" + ending


def _said(text: str) -> str:
    before, _, after = text.partition("TEXT")
    return "{{ '" + before + "' + m['content'] | trim + '" + after + "' }}"


def _mistral(lead: str, trail: str) -> str:
    """[INST] with white space around it, the system's text in front of the first user's."""
    return (
        "{% set ns = namespace(inside=false) %}{% for m in messages %}"
        "{% if m['role'] != 'assistant' and not ns.inside %}{% set ns.inside = true %}"
        "{{ '" + lead + "[INST]" + trail + "' }}{% endif %}"
        "{% if m['role'] == 'system' %}{{ m['content'] + '\\n\\n' }}"
        "{% elif m['role'] == 'user' %}{{ m['content'] + '" + lead + "[/INST]' }}"
        "{% else %}{% set ns.inside = false %}{{ '"
        + trail
        + "' + m['content'] | trim + eos_token }}{% endif %}"
        "{% endfor %}"
    )


_LLAMA2: Final = (
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = '<<SYS>>\\n' + m['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% elif m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ns.system + m['content'] | trim + ' [/INST]' }}{% set ns.system = '' %}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_COMMAND_R: Final = "<|START_OF_TURN_TOKEN|><|{}_TOKEN|>TEXT<|END_OF_TURN_TOKEN|>"
_GEMMA: Final = "<start_of_turn>{}\\nTEXT<end_of_turn>\\n"
# Names are llama.cpp's.
BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "bitnet": BITNET,
        "chatml": _by_role("<|im_start|>ROLE\\n", "<|im_end|>\\n", "<|im_start|>assistant\\n"),
        "command-r": _turns(
            _COMMAND_R.format("SYSTEM"),
            _COMMAND_R.format("USER"),
            _COMMAND_R.format("CHATBOT"),
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
        "deepseek2": _turns(
            "TEXT\\n\\n", "User: TEXT\\n\\n", "Assistant: TEXT<｜end▁of▁sentence｜>", "Assistant:"
        ),
        "deepseek3": _turns(
            "TEXT\\n\\n", "<｜User｜>TEXT", "<｜Assistant｜>TEXT<｜end▁of▁sentence｜>", "<｜Assistant｜>"
        ),
        "falcon3": _by_role("<|ROLE|>\\n", "\\n", "<|assistant|>\\n"),
        "gemma": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}"
        + _turns("", _GEMMA.format("user"), _GEMMA.format("model"), "<start_of_turn>model\\n"),
        "granite": _by_role(
            "<|start_of_role|>ROLE<|end_of_role|>",
            "<|end_of_text|>\\n",
            "<|start_of_role|>assistant<|end_of_role|>",
        ),
        "llama2": _LLAMA2,
        "llama3": _by_role(
            "<|start_header_id|>ROLE<|end_header_id|>\\n\\n",
            "<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\\n\\n",
        ),
        "llama4": _by_role(
            "<|header_start|>ROLE<|header_end|>\\n\\n",
            "<|eot|>",
            "<|header_start|>assistant<|header_end|>\\n\\n",
        ),
        "mistral-v1": _mistral(" ", " "),
        "mistral-v3": _mistral("", " "),
        "mistral-v3-tekken": _mistral("", ""),
        "mistral-v7": _turns("[SYSTEM_PROMPT] TEXT[/SYSTEM_PROMPT]", "[INST] TEXT[/INST]", " TEXT</s>"),
        "mistral-v7-tekken": _turns("[SYSTEM_PROMPT]TEXT[/SYSTEM_PROMPT]", "[INST]TEXT[/INST]", "TEXT</s>"),
        "openchat": _turns(
            "TEXT<|end_of_turn|>",
            "GPT4 Correct User: TEXT<|end_of_turn|>",
            "GPT4 Correct Assistant: TEXT<|end_of_turn|>",
            "GPT4 Correct Assistant:",
        ),
        "phi3": _by_role("<|ROLE|>\\n", "<|end|>\\n", "<|assistant|>\\n"),
        "phi4": _by_role("<|im_start|>ROLE<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
        "vicuna": _turns("TEXT\\n\\n", "USER: TEXT\\n", "ASSISTANT: TEXT</s>\\n", "ASSISTANT:"),
        "zephyr": _by_role("<|ROLE|>\\n", "</s>\\n", "<|assistant|>\\n"),
    }
)


def template_for(architecture: object, given: str | None) -> str | None:
    """The template to use for a model file that has this one, or none."""
    if architecture in _BITNET_NAMES and (given is None or _WRONG in given):
        return BITNET
    return given


def parse_template(flag: str, text: str) -> str:
    """`--chat-template NAME|TEXT`: a template by its name, or itself. OptionError for a name that is not known."""
    if "{{" in text or "{%" in text:
        return text
    if text not in BUILT_IN:
        what = f"is neither a template nor the name of one; there are {', '.join(BUILT_IN)}"
        raise OptionError(f"{shown(text)}: {what}", flag)
    return BUILT_IN[text]


def parse_values(flag: str, text: str) -> dict[str, Any]:
    """`--chat-template-kwargs JSON`: an object of further values for the template. OptionError for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise OptionError(f'{shown(text)}: a JSON object is needed, as in {{"enable_thinking": false}}', flag)
    return found


def budget_values(budget: int) -> dict[str, Any]:
    """`--reasoning-budget N`: what a template is told, of the names that templates have for it.

    0 is no thoughts, -1 no limit; limits are kept while the model answers, with `Marks.ending`.
    """
    return {} if budget else {"enable_thinking": False, "thinking": False}
