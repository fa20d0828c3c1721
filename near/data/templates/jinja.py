"""A named template as a Hugging Face chat template in Jinja, for exports and other programs."""

import json
import re

from near.data.templates.tool_formats import RESULTS, TOOL_FORMATS

SPECIAL = {"{{bos}}": "{{ bos_token }}", "{{eos}}": "{{ eos_token }}"}


def literal(text: str) -> str:
    """`text` as a string literal in Jinja, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)


def slot(text: str, content: str = "") -> str:
    """A slot, or a part of it, as Jinja. `content`: the Jinja expression for its content."""
    out = ""
    for part in re.split(r"(\{\{(?:bos|eos|content)\}\})", text):
        out += SPECIAL.get(part, content if part == "{{content}}" else f"{{{{ {literal(part)} }}}}" if part else "")
    return out


def head_of(name: str, default_system: str) -> str:
    """The beginning of the Jinja of template `name`."""
    return f"{{# {name} #}}{{% set default_system = {literal(default_system)} %}}"


def jinja_of(template) -> str:
    """`template` in Jinja, on one line; a leading comment with the name distinguishes templates of equal slots."""
    form, opening = TOOL_FORMATS[template.tools], slot(template.opening)
    system, user, flush = slot(template.system, "{{ content }}"), slot(template.user, "{{ content }}"), ""
    if template.fused_system:  # the system text waits in ns.fused for the next user turn
        system = "{% set ns.fused %}{{ ns.fused }}" + system + "{% endset %}"
        user = slot(template.user, "{{ ns.fused }}{{ content }}") + "{% set ns.fused = '' %}"
        flush = "{% if ns.fused %}" + slot(template.user, "{{ ns.fused }}") + "{% set ns.fused = '' %}{% endif %}"
    before, after = (template.user if template.tool is None else template.tool).split("{{content}}")
    tool_opening = opening if template.tool_opening is None else slot(template.tool_opening)
    return "".join(
        (
            head_of(template.name, template.default_system),
            "{% set ns = namespace(fused='', system='', kept='') %}",
            "{% macro describe() %}" + form.jinja_tools + "{% endmacro %}",
            "{% macro written(calls) %}" + form.jinja_calls + "{% endmacro %}",
            "{% set turns = messages %}",
            "{% if messages and messages[0]['role'] == 'system' %}",
            "{% set ns.system = messages[0]['content'] %}{% set turns = messages[1:] %}{% endif %}",
            "{% set content = (ns.system or default_system) ~ (describe() if tools else '') %}",
            slot(template.prefix) + "{% if content %}" + system + "{% endif %}",
            "{% for m in turns %}{% set content = m['content'] or '' %}",
            "{% set opens = add_generation_prompt if loop.last else loop.nextitem['role'] == 'assistant' %}",
            "{% if m['role'] == 'user' %}" + user + "{% if opens %}" + opening + "{% endif %}",
            "{% elif m['role'] == 'system' %}" + system,
            "{% elif m['role'] == 'tool' %}" + flush + "{% if loop.first or loop.previtem['role'] != 'tool' %}",
            slot(before) + "{% else %}" + slot(RESULTS) + "{% endif %}{{ content }}",
            "{% if loop.last or loop.nextitem['role'] != 'tool' %}" + slot(after),
            "{% if opens %}" + tool_opening + "{% endif %}{% endif %}",
            "{% elif m['role'] == 'assistant' %}",
            "{% if loop.first or loop.previtem['role'] not in ['user', 'tool'] %}" + flush + opening + "{% endif %}",
            _answer(template),
            "{% else %}{{ raise_exception('" + template.name + " has no slot for role ' ~ m['role']) }}",
            "{% endif %}{% endfor %}{% set last = turns[-1]['role'] if turns else '' %}",
            "{% if add_generation_prompt %}{% if last not in ['user', 'tool'] %}" + flush + opening + "{% endif %}",
            "{% if enable_thinking is false %}" + slot(template.nothing_thought) + "{% endif %}"
            if template.reasoning
            else "",
            "{% else %}" + flush,
            "{% if last == 'assistant' %}{{ eos_token }}{% endif %}" if template.efficient_eos else "",
            "{% endif %}",
        )
    )


def _answer(template) -> str:
    """An assistant turn `m` in its slot: thought, content and tool calls."""
    begin, end = map(literal, template.thought)
    out = (
        "{% set body = content %}"
        "{% if m['reasoning_content'] is string %}"
        f"{{% set body = {begin} ~ m['reasoning_content'] ~ {end} ~ content %}}{{% endif %}}"
    )
    if template.reasoning:
        out += (
            f"{{% if enable_thinking is false %}}{{% set ns.kept = '' %}}{{% for part in body.split({begin}) %}}"
            f"{{% if loop.first %}}{{% set ns.kept = part %}}"
            f"{{% elif {end} in part %}}{{% set ns.kept = ns.kept ~ part.split({end}, 1)[1] %}}"
            f"{{% else %}}{{% set ns.kept = ns.kept ~ {begin} ~ part %}}{{% endif %}}{{% endfor %}}"
            "{% set body = ns.kept.lstrip('\\n') %}{% endif %}"
        )
    out += (
        "{% set reply = body %}{% if m['tool_calls'] %}"
        "{% set reply = body ~ ('\\n' if content.strip() and not body.endswith('\\n') else '') "
        "~ written(m['tool_calls']) %}{% endif %}"
    )
    if template.reasoning:
        looks = " or ".join(f"{literal(word.strip())} in reply" for word in template.thought)
        out += f"{{% if not ({looks}) %}}{slot(template.nothing_thought)}{{% endif %}}"
    answer = slot(template.assistant, "{{ reply }}")
    if template.calls is None or template.calls == template.assistant:
        return out + answer
    called = slot(template.calls, "{{ reply }}")
    return out + "{% if m['tool_calls'] %}" + called + "{% else %}" + answer + "{% endif %}"
