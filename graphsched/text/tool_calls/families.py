"""The families: how each writes calls of tools, and what its templates name."""

import re
from collections.abc import Callable
from typing import Final

from graphsched.text.tool_calls.formats import Format


def _re(text: str) -> re.Pattern[str]:
    return re.compile(text, re.DOTALL)


_FUNCTION: Final = _re(r"<function=(?P<name>[^>\n]+)>")
_PARAMETER: Final = _re(r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>")
_INVOKE: Final = _re(r'<invoke name="(?P<name>[^"\n]+)">')
_NAMED_PARAMETER: Final = _re(r'<parameter name="(?P<key>[^"\n]+)">\n?(?P<value>.*?)\n?</parameter>')
_DSML: Final = "｜DSML｜"
_NS: Final = "]<]minimax[>["
_OBJECT: Final = '{"name": "{name}", "arguments": {arguments}}'

HERMES: Final = Format(
    "hermes", "<tool_call>", "</tool_call>", "objects", write="\n" + _OBJECT + "\n", is_each=True
)


def _functions(name: str, opening: str, closing: str) -> Format:
    return Format(
        name,
        opening,
        closing,
        "parameters",
        _FUNCTION,
        "</function>",
        _PARAMETER,
        "\n<function={name}>\n{arguments}</function>\n",
        "<parameter={key}>\n{value}\n</parameter>\n",
        is_each=True,
    )


def _dsml(name: str, section: str) -> Format:
    return Format(
        name,
        f"<{_DSML}{section}>",
        f"</{_DSML}{section}>",
        "parameters",
        _re(rf'<{_DSML}invoke name="(?P<name>[^"\n]+)">'),
        f"</{_DSML}invoke>",
        _re(
            rf'<{_DSML}parameter name="(?P<key>[^"\n]+)"(?: string="(?P<text>true|false)")?>'
            rf"(?P<value>.*?)</{_DSML}parameter>"
        ),
        f'<{_DSML}invoke name="{{name}}">\n{{arguments}}</{_DSML}invoke>\n',
        f'<{_DSML}parameter name="{{key}}" string="{{text}}">{{value}}</{_DSML}parameter>\n',
        first="\n",
    )


GPT_OSS: Final = Format(
    "gpt-oss",
    "<|channel|>commentary to=functions.",
    "",
    "named",
    _re(r"(?P<name>[\w.-]+)[^<]*(?:<\|constrain\|>json)?\s*<\|message\|>"),
    "<|call|>",
    write="{name} <|constrain|>json<|message|>{arguments}",  # the mark behind it ends the answer
    is_alone=True,
)
# What a template, or the vocabulary, has to name; the first that is found counts, so that the special ones come first.
FORMATS: Final[tuple[tuple[Callable[[str], bool], Format], ...]] = (
    (lambda t: "<|channel|>" in t and "<|message|>" in t, GPT_OSS),
    (lambda t: _DSML in t and "function_calls>" in t, _dsml("deepseek-v3.2", "function_calls")),
    (lambda t: "｜DSML｜" in t or "dsml_token" in t, _dsml("deepseek-v4", "tool_calls")),
    (
        lambda t: "<minimax:tool_call>" in t,
        Format(
            "minimax-m2",
            "<minimax:tool_call>",
            "</minimax:tool_call>",
            "parameters",
            _INVOKE,
            "</invoke>",
            _NAMED_PARAMETER,
            '<invoke name="{name}">\n{arguments}</invoke>\n',
            '<parameter name="{key}">{value}</parameter>\n',
            first="\n",
        ),
    ),
    (lambda t: "<seed:tool_call>" in t, _functions("seed-oss", "<seed:tool_call>", "</seed:tool_call>")),
    (
        lambda t: "<|tool_call>" in t and "<tool_call|>" in t,
        Format(
            "gemma-4",
            "<|tool_call>",
            "<tool_call|>",
            "literals",
            _re(r"call:(?P<name>[\w.-]+)\{"),
            "}",
            _re(r'(?:<\|"\|>)?(?P<key>[\w.-]+)(?:<\|"\|>)?:'),
            "call:{name}{{arguments}}",
            "{key}:{value}",
            ",",
            '<|"|>',
            is_each=True,
        ),
    ),
    (
        lambda t: "<|tool_call_start|>" in t or "List of tools: " in t,
        Format(
            "lfm2",
            "<|tool_call_start|>",
            "<|tool_call_end|>",
            "literals",
            _re(r"(?P<name>[\w.-]+)\("),
            ")",
            _re(r"(?P<key>\w+)\s*="),
            "{name}({arguments})",
            "{key}={value}",
            ", ",
            first="[",
            last="]",
            between=", ",
        ),
    ),
    (
        lambda t: "<|tools_prefix|>" in t,
        Format(
            "apertus",
            "<|tools_prefix|>",
            "<|tools_suffix|>",
            "keyed",
            write='{"{name}": {arguments}}',
            first="[",
            last="]",
            between=", ",
        ),
    ),
    (
        lambda t: _NS in t,
        Format(
            "minimax-m3",
            f"{_NS}<tool_call>",
            f"{_NS}</tool_call>",
            "parameters",
            _re(re.escape(_NS) + r'<invoke name="(?P<name>[^"\n]+)">'),
            f"{_NS}</invoke>",
            _re(
                re.escape(_NS) + r"<(?P<key>[\w.-]+)>(?P<value>.*?)" + re.escape(_NS) + r"</(?P=key)>",
            ),
            f'{_NS}<invoke name="{{name}}">{{arguments}}{_NS}</invoke>\n',
            f"{_NS}<{{key}}>{{value}}{_NS}</{{key}}>",
            first="\n",
        ),
    ),
    (
        lambda t: "<tool_sep" in t and "HYTK" in t,
        Format(
            "hunyuan-3",
            "<tool_calls:opensource>",
            "</tool_calls:opensource>",
            "parameters",
            _re(r"<tool_call:opensource>\s*(?P<name>[^\s<]+)\s*<tool_sep:opensource>"),
            "</tool_call:opensource>",
            _re(
                r"<arg_key:opensource>\s*(?P<key>.*?)\s*</arg_key:opensource>\s*"
                r"<arg_value:opensource>(?P<value>.*?)</arg_value:opensource>"
            ),
            "<tool_call:opensource>{name}<tool_sep:opensource>\n{arguments}</tool_call:opensource>\n",
            "<arg_key:opensource>{key}</arg_key:opensource>\n"
            "<arg_value:opensource>{value}</arg_value:opensource>\n",
            first="\n",
        ),
    ),
    (
        lambda t: '<function name="' in t and '<param name="' in t,
        Format(
            "minicpm-5",
            '<function name="',
            "",
            "parameters",
            _re(r'<function name="(?P<name>[^"\n]+)">'),
            "</function>",
            _re(r'<param name="(?P<key>[^"\n]+)">(?:<!\[CDATA\[(?P<whole>.*?)\]\]>|(?P<value>.*?))</param>'),
            '<function name="{name}">{arguments}</function>',
            '<param name="{key}">{value}</param>',
            is_part=True,
            between="\n",
        ),
    ),
    (
        lambda t: "<|tool_call:begin|>" in t,
        Format(
            "solar-open",
            "<|tool_calls|>",
            "",  # <|calls|> ends the answer
            "named",
            _re(r"<\|tool_call:begin\|>[^<]*<\|tool_call:name\|>(?P<name>[^<]+)<\|tool_call:args\|>"),
            "<|tool_call:end|>",
            write="<|tool_call:begin|>call{n}<|tool_call:name|>{name}<|tool_call:args|>{arguments}<|tool_call:end|>",
        ),
    ),
    (
        lambda t: "<|function_call|>" in t,
        Format("gigachat-3.1", "<|function_call|>", "", "objects", write=_OBJECT, is_alone=True),
    ),
    (
        lambda t: "<tool_calls>" in t,
        Format(
            "tool-calls",
            "<tool_calls>",
            "</tool_calls>",
            "objects",
            write=_OBJECT,
            first="[",
            last="]",
            between=", ",
        ),
    ),
    (
        lambda t: "<arg_key>" in t,
        Format(
            "glm-4.5",
            "<tool_call>",
            "</tool_call>",
            "parameters",
            _re(r"\s*(?P<name>[^\s<]+)(?=\s*<)"),
            "",
            _re(r"<arg_key>\s*(?P<key>.*?)\s*</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>"),
            "{name}\n{arguments}",
            "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n",
            is_each=True,
        ),
    ),
    (
        lambda t: "<function=" in t and "<tool_call>" in t,
        _functions("qwen3-coder", "<tool_call>", "</tool_call>"),
    ),
    (
        lambda t: "<|tool_calls_section_begin|>" in t,
        Format(
            "kimi-k2",
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "named",
            _re(
                r"<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[\w.-]+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>"
            ),
            "<|tool_call_end|>",
            write="<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>",
        ),
    ),
    (
        lambda t: "<｜tool▁calls▁begin｜>" in t and "```json" in t,
        Format(
            "deepseek-r1",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "named",
            _re(r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?(?P<name>[^<\n]+)\n```json\n"),
            "<｜tool▁call▁end｜>",
            write="<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>",
            between="\n",
        ),
    ),
    (
        lambda t: "<｜tool▁calls▁begin｜>" in t,
        Format(
            "deepseek-v3.1",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "named",
            _re(r"<｜tool▁call▁begin｜>(?P<name>[^<\n]+)<｜tool▁sep｜>"),
            "<｜tool▁call▁end｜>",
            write="<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
        ),
    ),
    (
        lambda t: "[TOOL_CALLS]" in t and "[ARGS]" in t,
        Format(
            "mistral-args",
            "[TOOL_CALLS]",
            "",
            "named",
            _re(r"(?:\[TOOL_CALLS\])?(?P<name>[\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\]"),
            write="{name}[ARGS]{arguments}",
            between="[TOOL_CALLS]",
        ),
    ),
    (
        lambda t: "[TOOL_CALLS]" in t,
        Format("mistral", "[TOOL_CALLS]", "", "objects", write=_OBJECT, first="[", last="]", between=", "),
    ),
    (
        lambda t: "<|START_ACTION|>" in t,
        Format(
            "command-r",
            "<|START_ACTION|>",
            "<|END_ACTION|>",
            "objects",
            write='    {"tool_call_id": "{n}", "tool_name": "{name}", "parameters": {arguments}}',
            first="[\n",
            last="\n]",
            between=",\n",
        ),
    ),
    (
        lambda t: "<TOOLCALL>" in t,
        Format(
            "nemotron",
            "<TOOLCALL>",
            "</TOOLCALL>",
            "objects",
            write=_OBJECT,
            first="[",
            last="]",
            between=", ",
        ),
    ),
    (lambda t: "<tool_call>" in t, HERMES),
    (
        lambda t: "<|tool_call|>" in t,
        Format("granite-3", "<|tool_call|>", "", "objects", write=_OBJECT, first="[", last="]", between=", "),
    ),
    (
        lambda t: "<function=" in t,
        Format(
            "functionary-3.1",
            "<function=",
            "",
            "named",
            _FUNCTION,
            "</function>",
            write="<function={name}>{arguments}</function>",
            is_part=True,
        ),
    ),
    (
        lambda t: "<|python_tag|>" in t or ('"parameters"' in t and "ipython" in t),
        Format(
            "llama-3",
            '{"name"',
            "",
            "objects",
            write='{"name": "{name}", "parameters": {arguments}}',
            is_part=True,
            between="; ",
        ),
    ),
)


def format_of(template: str) -> Format:
    """The format of a template's calls; that of Hermes for one that names none."""
    return next((found for names, found in FORMATS if names(template)), HERMES)


def names_tools(template: str) -> bool:
    """Whether a template tells a model about tools by itself."""
    return re.search(r"\btools\b", template) is not None
