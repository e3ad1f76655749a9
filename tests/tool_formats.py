"""Small templates and answers in the manner of each family that calls tools."""

import json
from dataclasses import dataclass
from typing import Any, Final

DSML: Final = "｜DSML｜"
NS: Final = "]<]minimax[>["


@dataclass(frozen=True)
class Family:
    """How a family's template names its marks, control tokens, and what a model of it answers.

    one: a call of `weather` with the city "Paris" behind the text "Well"; two: that, and one of `add` with 2 and 3.
    """

    template: str
    special: tuple[str, ...]
    one: str
    two: str


def _args(**values: Any) -> str:
    return json.dumps(values)


PARIS, SUM = _args(city="Paris"), _args(a=2, b=3)


def _json(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def _hermes(name: str, arguments: str) -> str:
    return f"<tool_call>\n{_json(name, arguments)}\n</tool_call>"


def _functions(mark: str, name: str, **values: Any) -> str:
    inner = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in values.items())
    return f"<{mark}>\n<function={name}>\n{inner}</function>\n</{mark}>"


def _invoke(name: str, **values: Any) -> str:
    inner = "".join(f'<parameter name="{k}">{v}</parameter>\n' for k, v in values.items())
    return f'<invoke name="{name}">\n{inner}</invoke>\n'


def _dsml(name: str, **values: Any) -> str:
    inner = "".join(
        f'<{DSML}parameter name="{k}" string="{str(isinstance(v, str)).lower()}">{v}</{DSML}parameter>\n'
        for k, v in values.items()
    )
    return f'<{DSML}invoke name="{name}">\n{inner}</{DSML}invoke>\n'


def _glm(name: str, **values: Any) -> str:
    inner = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in values.items())
    return f"<tool_call>{name}\n{inner}</tool_call>"


def _kimi(name: str, arguments: str, n: int) -> str:
    return f"<|tool_call_begin|>functions.{name}:{n}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


def _r1(name: str, arguments: str) -> str:
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"


def _v31(name: str, arguments: str) -> str:
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"


def _oss(name: str, arguments: str) -> str:
    head = f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"{head}{arguments}<|call|>"


def _action(name: str, arguments: str, n: int) -> str:
    return f'    {{"tool_call_id": "{n}", "tool_name": "{name}", "parameters": {arguments}}}'


def _gemma(name: str, arguments: str) -> str:
    return f"<|tool_call>call:{name}{{{arguments}}}<tool_call|>"


def _tags(name: str, **values: Any) -> str:
    inner = "".join(f"{NS}<{k}>{v}{NS}</{k}>" for k, v in values.items())
    return f'{NS}<invoke name="{name}">{inner}{NS}</invoke>\n'


def _hunyuan(name: str, **values: Any) -> str:
    inner = "".join(
        f"<arg_key:opensource>{k}</arg_key:opensource>\n<arg_value:opensource>{v}</arg_value:opensource>\n"
        for k, v in values.items()
    )
    return f"<tool_call:opensource>{name}<tool_sep:opensource>\n{inner}</tool_call:opensource>\n"


def _function(name: str, **values: Any) -> str:
    inner = "".join(f'<param name="{k}">{v}</param>' for k, v in values.items())
    return f'<function name="{name}">{inner}</function>'


def _solar(name: str, arguments: str, n: int) -> str:
    head = f"<|tool_call:begin|>call{n}<|tool_call:name|>{name}"
    return f"{head}<|tool_call:args|>{arguments}<|tool_call:end|>"


def _template(marks: str) -> str:
    """A template that writes messages plainly, tools as JSON, and calls behind a family's marks."""
    return (
        "{% if tools %}{{ tools | tojson }}{% endif %}{# " + marks + " #}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
        "{% endfor %}"
    )


_R1_MARKS: Final = tuple(
    f"<｜tool▁{part}｜>" for part in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")
)
FAMILIES: Final = {
    "hermes": Family(
        _template("<tool_call>"),
        (),
        f"Well\n{_hermes('weather', PARIS)}",
        f"Well\n{_hermes('weather', PARIS)}\n{_hermes('add', SUM)}",
    ),
    "qwen3-coder": Family(
        _template("<tool_call><function="),
        (),
        "Well\n" + _functions("tool_call", "weather", city="Paris"),
        "Well\n"
        + _functions("tool_call", "weather", city="Paris")
        + "\n"
        + _functions("tool_call", "add", a=2, b=3),
    ),
    "seed-oss": Family(
        _template("<seed:tool_call><function="),
        (),
        "Well\n" + _functions("seed:tool_call", "weather", city="Paris"),
        "Well\n"
        + _functions("seed:tool_call", "weather", city="Paris")
        + "\n"
        + _functions("seed:tool_call", "add", a=2, b=3),
    ),
    "minimax-m2": Family(
        _template("<minimax:tool_call>"),
        (),
        f"Well\n<minimax:tool_call>\n{_invoke('weather', city='Paris')}</minimax:tool_call>",
        f"Well\n<minimax:tool_call>\n{_invoke('weather', city='Paris')}{_invoke('add', a=2, b=3)}</minimax:tool_call>",
    ),
    "deepseek-v3.2": Family(
        _template(f"<{DSML}function_calls>"),
        (),
        f"Well\n<{DSML}function_calls>\n{_dsml('weather', city='Paris')}</{DSML}function_calls>",
        f"Well\n<{DSML}function_calls>\n{_dsml('weather', city='Paris')}{_dsml('add', a=2, b=3)}"
        f"</{DSML}function_calls>",
    ),
    "glm-4.5": Family(
        _template("<tool_call><arg_key>"),
        ("<tool_call>", "</tool_call>"),
        "Well\n" + _glm("weather", city="Paris"),
        "Well\n" + _glm("weather", city="Paris") + "\n" + _glm("add", a=2, b=3),
    ),
    "kimi-k2": Family(
        _template("<|tool_calls_section_begin|>"),
        (
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_begin|>",
            "<|tool_call_end|>",
        ),
        f"Well<|tool_calls_section_begin|>{_kimi('weather', PARIS, 0)}<|tool_calls_section_end|>",
        f"Well<|tool_calls_section_begin|>{_kimi('weather', PARIS, 0)}{_kimi('add', SUM, 1)}<|tool_calls_section_end|>",
    ),
    "deepseek-r1": Family(
        _template("<｜tool▁calls▁begin｜>```json"),
        _R1_MARKS,
        f"Well<｜tool▁calls▁begin｜>{_r1('weather', PARIS)}<｜tool▁calls▁end｜>",
        f"Well<｜tool▁calls▁begin｜>{_r1('weather', PARIS)}\n{_r1('add', SUM)}<｜tool▁calls▁end｜>",
    ),
    "deepseek-v3.1": Family(
        _template("<｜tool▁calls▁begin｜>"),
        _R1_MARKS,
        f"Well<｜tool▁calls▁begin｜>{_v31('weather', PARIS)}<｜tool▁calls▁end｜>",
        f"Well<｜tool▁calls▁begin｜>{_v31('weather', PARIS)}{_v31('add', SUM)}<｜tool▁calls▁end｜>",
    ),
    "mistral-args": Family(
        _template("[TOOL_CALLS][ARGS]"),
        ("[TOOL_CALLS]", "[ARGS]"),
        f"Well[TOOL_CALLS]weather[ARGS]{PARIS}",
        f"Well[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]add[ARGS]{SUM}",
    ),
    "mistral": Family(
        _template("[TOOL_CALLS]"),
        ("[TOOL_CALLS]",),
        f"Well[TOOL_CALLS][{_json('weather', PARIS)}]",
        f"Well[TOOL_CALLS][{_json('weather', PARIS)}, {_json('add', SUM)}]",
    ),
    "command-r": Family(
        _template("<|START_ACTION|>"),
        ("<|START_ACTION|>", "<|END_ACTION|>"),
        f"Well<|START_ACTION|>[\n{_action('weather', PARIS, 0)}\n]<|END_ACTION|>",
        f"Well<|START_ACTION|>[\n{_action('weather', PARIS, 0)},\n{_action('add', SUM, 1)}\n]<|END_ACTION|>",
    ),
    "nemotron": Family(
        _template("<TOOLCALL>"),
        (),
        f"Well<TOOLCALL>[{_json('weather', PARIS)}]</TOOLCALL>",
        f"Well<TOOLCALL>[{_json('weather', PARIS)}, {_json('add', SUM)}]</TOOLCALL>",
    ),
    "llama-3": Family(
        _template("<|python_tag|>"),
        ("<|python_tag|>",),
        f"Well {_json('weather', PARIS, 'parameters')}",
        f"Well {_json('weather', PARIS, 'parameters')}; {_json('add', SUM, 'parameters')}",
    ),
    "gemma-4": Family(
        _template("<|tool_call><tool_call|>"),
        ("<|tool_call>", "<tool_call|>", '<|"|>'),
        "Well" + _gemma("weather", 'city:<|"|>Paris<|"|>'),
        "Well" + _gemma("weather", 'city:<|"|>Paris<|"|>') + _gemma("add", "a:2,b:3"),
    ),
    "lfm2": Family(
        _template("List of tools: <|tool_list_start|>"),
        ("<|tool_call_start|>", "<|tool_call_end|>"),
        'Well<|tool_call_start|>[weather(city="Paris")]<|tool_call_end|>',
        'Well<|tool_call_start|>[weather(city="Paris"), add(a=2, b=3)]<|tool_call_end|>',
    ),
    "apertus": Family(
        _template("<|tools_prefix|>"),
        ("<|tools_prefix|>", "<|tools_suffix|>"),
        f'Well<|tools_prefix|>[{{"weather": {PARIS}}}]<|tools_suffix|>',
        f'Well<|tools_prefix|>[{{"weather": {PARIS}}}, {{"add": {SUM}}}]<|tools_suffix|>',
    ),
    "minimax-m3": Family(
        _template(NS),
        (NS,),
        f"Well{NS}<tool_call>\n{_tags('weather', city='Paris')}{NS}</tool_call>",
        f"Well{NS}<tool_call>\n{_tags('weather', city='Paris')}{_tags('add', a=2, b=3)}{NS}</tool_call>",
    ),
    "hunyuan-3": Family(
        _template("<tool_sep HYTK"),
        ("<tool_calls:opensource>", "</tool_calls:opensource>", "<tool_sep:opensource>"),
        f"Well<tool_calls:opensource>\n{_hunyuan('weather', city='Paris')}</tool_calls:opensource>",
        f"Well<tool_calls:opensource>\n{_hunyuan('weather', city='Paris')}{_hunyuan('add', a=2, b=3)}"
        "</tool_calls:opensource>",
    ),
    "minicpm-5": Family(
        _template('<function name="<param name="'),
        (),
        "Well" + _function("weather", city="Paris"),
        "Well" + _function("weather", city="Paris") + "\n" + _function("add", a=2, b=3),
    ),
    "solar-open": Family(
        _template("<|tool_call:begin|>"),
        ("<|tool_calls|>", "<|tool_call:begin|>", "<|tool_call:args|>"),
        f"Well<|tool_calls|>{_solar('weather', PARIS, 0)}",
        f"Well<|tool_calls|>{_solar('weather', PARIS, 0)}{_solar('add', SUM, 1)}",
    ),
    "gigachat-3.1": Family(
        _template("<|function_call|>"),
        ("<|function_call|>",),
        f"Well<|function_call|>{_json('weather', PARIS)}",
        f"Well<|function_call|>{_json('weather', PARIS)};{_json('add', SUM)}",
    ),
    "tool-calls": Family(
        _template("<tool_calls>"),
        (),
        f"Well<tool_calls>[{_json('weather', PARIS)}]</tool_calls>",
        f"Well<tool_calls>[{_json('weather', PARIS)}, {_json('add', SUM)}]</tool_calls>",
    ),
    "granite-3": Family(
        _template("<|tool_call|>"),
        ("<|tool_call|>",),
        f"Well<|tool_call|>[{_json('weather', PARIS)}]",
        f"Well<|tool_call|>[{_json('weather', PARIS)}, {_json('add', SUM)}]",
    ),
    "functionary-3.1": Family(
        _template("<function="),
        (),
        f"Well<function=weather>{PARIS}</function>",
        f"Well<function=weather>{PARIS}</function><function=add>{SUM}</function>",
    ),
    "gpt-oss": Family(
        _template("<|channel|><|message|>"),
        ("<|channel|>", "<|message|>", "<|start|>", "<|call|>", "<|constrain|>"),
        f"<|channel|>final<|message|>Well<|end|>{_oss('weather', PARIS)}",
        f"<|channel|>final<|message|>Well<|end|>{_oss('weather', PARIS)}{_oss('add', SUM)}",
    ),
}
TOOLS: Final = {
    "weather": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
