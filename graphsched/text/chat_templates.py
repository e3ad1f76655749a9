"""Chat templates of models whose files lack one, or have one that the model was not trained on."""

from typing import Final

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


def template_for(architecture: object, given: str | None) -> str | None:
    """The template to use for a model file that has this one, or none."""
    if architecture in _BITNET_NAMES and (given is None or _WRONG in given):
        return BITNET
    return given
