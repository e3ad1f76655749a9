"""Chat templates: what Hugging Face's expect works, and what a hostile one tries does not."""

from typing import Any

import pytest

import graphsched.text.chat
from graphsched.errors import Error
from graphsched.text.chat import render
from graphsched.text.chat_templates import template_for

MESSAGES = [
    {"role": "system", "content": "Be <brief>."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "So?"},
]

LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system_message = messages[0]['content'] %}
{% else %}
    {% set loop_messages = messages %}
    {% set system_message = false %}
{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if loop.index0 == 0 and system_message %}
        {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' -}}
    {% elif message['role'] == 'assistant' %}
{{ ' ' + content.strip() + ' ' + eos_token -}}
    {% endif %}
{% endfor %}"""


def run(template: str | None, messages: list[dict[str, Any]] = MESSAGES, **options: Any) -> str:
    return render(template, messages, bos="<s>", eos="</s>", **options)


def test_a_model_without_a_template_gets_chatml() -> None:
    user = "<|im_start|>user\nHi<|im_end|>\n"
    assert run(None, MESSAGES[:2]) == (
        f"<|im_start|>system\nBe <brief>.<|im_end|>\n{user}<|im_start|>assistant\n"
    )
    assert run(None, MESSAGES[1:2], add_generation_prompt=False) == user
    assert run("") == run(None)


def test_a_real_template() -> None:
    expected = "<s>[INST] <<SYS>>\nBe <brief>.\n<</SYS>>\n\nHi [/INST] Ho </s><s>[INST] So? [/INST]"
    assert run(LLAMA2) == expected
    with pytest.raises(Error, match=r"roles must alternate user/assistant/user/assistant/\.\.\."):
        run(LLAMA2, MESSAGES[1:2] * 2)


@pytest.mark.parametrize("given", [None, "{{ messages[0]['content'] + '\\n\\nBITNETAssistant: ' }}"])
def test_bitnet_2b_4t_has_its_own_format_where_a_file_has_none_or_a_wrong_one(given: str | None) -> None:
    expected = "<s>System: Be <brief>.<|eot_id|>User: Hi<|eot_id|>Assistant: Ho<|eot_id|>User: So?<|eot_id|>"
    assert run(template_for("bitnet-b1.58", given)) == expected + "Assistant: "
    assert template_for("llama", given) == given
    assert template_for("bitnet-b1.58", "its own") == "its own"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ tools is none }} {{ messages | length }}", "True 4"),
        ("{{ messages[0] | tojson }}", '{"role": "system", "content": "Be <brief>."}'),
        ("{{ {'b': 'é', 'a': 1} | tojson(sort_keys=true) }}", '{"a": 1, "b": "é"}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role[0] }}{% endfor %}", "sua"),
        (
            "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} {% endfor %}",
            "1/2 2/2 ",
        ),
        ("{% generation %}{{ messages[2].content }}{% endgeneration %}!", "Ho!"),
        (
            "{% set n = namespace(x=0) %}{% for i in range(4) %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}",
            "6",
        ),
        (
            "{% macro f(a, b=1) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% call f('x') %}z{% endcall %}",
            "x1z",
        ),
        ("{% for x in [1, [2]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}", "12"),
        ("{% for x in [] %}{% else %}none{% endfor %}", "none"),
        ("  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
        ("{{ '-' * 3 }}{{ 2 ** 3 * 2 }}{{ [0] * 2 }}{{ 1.5 * 2 }}", "---16[0, 0]3.0"),
        ("{{ absent }}{{ absent is defined }}", "False"),
    ],
)
def test_what_templates_expect(template: str, expected: str) -> None:
    assert run(template) == expected


def test_today() -> None:
    assert run("{{ strftime_now('%Y') | length }}") == "4"


def test_tools() -> None:
    assert run("{{ tools[0].name }}", tools=[{"name": "search"}]) == "search"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        (
            "{{ strftime_now.__globals__['json'] }}",
            "access to attribute '__globals__' of 'function' object is unsafe",
        ),
        ("{{ cycler.__init__.__globals__.os }}", "access to attribute '__init__' of 'type' object is unsafe"),
        ("{{ (''|attr('__class__')).x }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ messages.clear() }}", "access to attribute 'clear' of 'list' object is unsafe"),
        ("{% include 'x.jinja' %}", "no loader for this environment specified"),
        ("{{ raise_exception('no\nsystem\x07role') }}", r"no system\x07role"),
        ("{{ raise_exception('') }}", "TemplateError"),
        ("{% for x in y %}", "Unexpected end of template"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ x.y }}", "'x' is undefined"),
        ("{{ 'a' + 1 }}", "can only concatenate str"),
        ("{{ undefined_name | tojson }}", "Undefined is not JSON serializable"),
        ("{{ 'x' | nofilter }}", "No filter named 'nofilter'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
        ("{% for i in range(1000000000) %}{% endfor %}", "Range too big"),
        ("{{ 'a' * 10 ** 9 }}", "the result of an operator * is too large"),
        ("{{ [0] * 100000 * 100000 }}", "the result of an operator * is too large"),
        ("{{ 9 ** (9 ** 9) }}", "the result of an operator ** is too large"),
    ],
)
def test_a_failing_template_is_one_sentence(template: str, sentence: str) -> None:
    with pytest.raises(Error) as e:
        run(template)
    assert sentence in str(e.value)
    assert str(e.value).startswith("the chat template failed: ")
    assert str(e.value).isprintable()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) if range(999) | sum < 0 %}{% endfor %}",
        "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    ],
)
def test_every_loop_ends(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphsched.text.chat, "MAX_SECONDS", 0.05)
    with pytest.raises(Error, match=r"it runs for more than 0\.05 seconds|maximum recursion depth"):
        run(template)


def test_messages_stay_as_they_are() -> None:
    before = [dict(m) for m in MESSAGES]
    with pytest.raises(Error):
        run("{% set _ = messages[0].update({'role': 'x'}) %}")
    assert before == MESSAGES
