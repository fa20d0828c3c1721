"""Untrusted chat templates and patterns of adapters are limited in time and memory."""

import os
import re
import threading

import pytest
from jinja2 import TemplateError

from near.common import bounded
from near.common.errors import UserError
from near.models import patterns, rendering
from near.models.encoding import Encoder
from tests.made_tokenizers import OWN_TEMPLATES, byte_level

pytestmark = pytest.mark.model
CHAT = [
    {"role": "user", "content": "a question"},
    {"role": "assistant", "content": "an answer"},
    {"role": "user", "content": "and \ud800 another"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"x": 1}}}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLE = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"


@pytest.fixture(autouse=True)
def little(monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 0.5)
    monkeypatch.setattr(rendering, "_process", None)
    monkeypatch.setattr(bounded, "MEMORY", 200 << 20)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


def text(tokenizer, template: str, chat: list[dict] = CHAT, tools: list | None = None, generate: bool = False) -> str:
    tokenizer.chat_template = template
    return rendering.text_of(rendering.render(tokenizer, chat, tools, [(True, len(chat), generate)])[0])


@pytest.mark.parametrize("template", [*OWN_TEMPLATES.values(), "{{ tools | tojson }}{{ eos_token }}{{ messages[-1] }}"])
def test_texts_are_those_of_transformers(tokenizer, template):
    tokenizer.chat_template = template
    parts = [(tools, stop, generate) for tools in (True, False) for stop in (1, 2, 3) for generate in (True, False)]
    errors = rendering.render(tokenizer, CHAT, TOOLS, parts)
    for (tools, stop, generate), one in zip(parts, errors, strict=True):
        options = {"tools": TOOLS} if tools else {}
        expected = tokenizer.apply_chat_template(CHAT[:stop], tokenize=False, add_generation_prompt=generate, **options)
        assert rendering.text_of(one) == expected


@pytest.mark.parametrize(
    "template",
    [
        LOOP,
        "{% macro m(n) %}{% for i in range(n) %}{{ m(n - 1) }}{% endfor %}{% endmacro %}{{ m(30) }}",
        "{{ range(99999) | map('string') | map('replace', '', 'x' * 9999) | list | length }}",
        "{{ (10 ** (10 ** 8)) % 7 }}",  # when it is compiled
        "{% set n = messages | length %}{{ ((n + 9) ** (10 ** 8)) % 7 }}",
        "{{ lipsum(n=10 ** 7) }}",
        "{{ 'x' * 10 ** 11 }}",
        "{{ 'x' | center(10 ** 11) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ 'x'.ljust(10 ** 11) }}",
        "{{ [1] * 10 ** 10 }}",
        DOUBLE,
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    ],
)
def test_a_template_that_takes_too_much_is_refused(tokenizer, template):
    for _ in range(2):  # the second time at once
        with pytest.raises(
            UserError, match=r"chat template of .* is refused, it (takes over|gives) .*; choose another"
        ):
            text(tokenizer, template)
    assert text(tokenizer, OWN_TEMPLATES["chatml"]), "others go on"


def test_only_some_chats_take_too_much(tokenizer):
    template = f"{{% if messages | length > 2 %}}{LOOP}{{% endif %}}fine"
    assert text(tokenizer, template, CHAT[:2]) == "fine"
    with pytest.raises(UserError, match="takes over"):
        text(tokenizer, template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no tools here') }}",
        "{% for i in range(10 ** 12) %}{% endfor %}",
        "{{ cycler.__init__.__globals__.os.system('touch mark') }}",
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 1 / 0 }}",
        "{{ nothing.of.this }}",
        "{% if %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_that_fails_says_so(tokenizer, template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TemplateError):
        text(tokenizer, template)
    assert not list(tmp_path.iterdir())


def test_it_is_bounded_in_threads_and_forks(tokenizer):
    """A signal's handler would work in the main thread alone."""
    assert text(tokenizer, OWN_TEMPLATES["chatml"])
    errors = []

    def work() -> None:
        try:
            text(tokenizer, LOOP + "in a thread")
        except UserError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "takes over" in errors[0]
    assert text(tokenizer, OWN_TEMPLATES["chatml"])
    child = os.fork()
    if not child:
        os._exit(0 if "a question" in text(tokenizer, OWN_TEMPLATES["spaced"]) else 1)
    assert text(tokenizer, OWN_TEMPLATES["chatml"]), "the fork has a process of its own"
    assert os.waitpid(child, 0)[1] == 0


def test_rows_say_it(tokenizer):
    tokenizer.chat_template = DOUBLE + "a row"
    with pytest.raises(UserError, match="is refused"):
        Encoder(tokenizer, {"cutoff_len": 100}).encode(CHAT[:2])


# --- adapters -------------------------------------------------------------------------------------------------------

NAMES = [f"model.layers.{i}.self_attn.{part}_proj" for i in range(30) for part in "qkvo"] + ["lm_head" + "a" * 40]
ENDLESS = "(a+)+b|([a-z_.0-9]+)+!"


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ENDLESS},
        {"exclude_modules": ENDLESS},
        {"layers_pattern": ENDLESS},
        {"layers_pattern": ["layers", ENDLESS]},
        {"modules_to_save": ["lm_head", ENDLESS]},
        {"rank_pattern": {ENDLESS: 4}},
        {"alpha_pattern": {"q_proj": 3, ENDLESS: 4}},
    ],
)
def test_a_pattern_that_never_ends(config, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    with pytest.raises(
        UserError, match=rf"OUT/adapter_config.json: it takes over .* to match {next(iter(config))} with"
    ):
        patterns.check_patterns("OUT", config, NAMES)


@pytest.mark.parametrize("pattern", ["(", "*", "a{99999999999}", "(?P<a>x)(?P<a>y)", "[", "\\"])
def test_what_is_no_pattern(pattern):
    with pytest.raises(UserError, match=re.escape("OUT/adapter_config.json: rank_pattern=")):
        patterns.check_patterns("OUT", {"rank_pattern": {pattern: 4}}, NAMES)


def test_usual_patterns_pass():
    usual = {
        "target_modules": r".*\.self_attn\.(q|v)_proj",
        "exclude_modules": ["lm_head", "*"],
        "layers_pattern": ["layers"],
        "modules_to_save": None,
        "rank_pattern": {"q_proj": 8, r"^model\.layers\.(\d+)\.self_attn.*": 4},
        "alpha_pattern": {},
        "megatron_config": None,
    }
    patterns.check_patterns("OUT", usual, NAMES)
    patterns.check_patterns("OUT", {"target_modules": ["q_proj", "v_proj"]}, NAMES)
    with pytest.raises(UserError, match="megatron_config, which imports"):
        patterns.check_patterns("OUT", usual | {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, NAMES)
