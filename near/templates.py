"""Chat templates by name, with the slots that LLaMA-Factory's templates of these names have."""

import json
import logging
import re
from dataclasses import replace

from near.chat_template import Piece, Template
from near.errors import UserError, did_you_mean
from near.template_jinja import head_of

__all__ = ["ENDS", "TEMPLATES", "Piece", "Template", "set_template", "template_of"]
log = logging.getLogger(__name__)

CHATML = Template(
    "chatml",
    user="<|im_start|>user\n{{content}}<|im_end|>\n",
    opening="<|im_start|>assistant\n",
    assistant="{{content}}<|im_end|>\n",
    system="<|im_start|>system\n{{content}}<|im_end|>\n",
    tool="<|im_start|>tool\n{{content}}<|im_end|>\n",
    stop_words=("<|im_end|>", "<|im_start|>"),
    replace_eos=True,
)
LLAMA3 = Template(
    "llama3",
    prefix="{{bos}}",
    user="<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|>",
    opening="<|start_header_id|>assistant<|end_header_id|>\n\n",
    assistant="{{content}}<|eot_id|>",
    system="<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>",
    tool="<|start_header_id|>ipython<|end_header_id|>\n\n{{content}}<|eot_id|>",
    tools="llama3",
    stop_words=("<|eot_id|>", "<|eom_id|>"),
    replace_eos=True,
)
ALPACA = Template(
    "alpaca",
    user="### Instruction:\n{{content}}\n\n",
    opening="### Response:\n",
    assistant="{{content}}{{eos}}\n\n",
    default_system=(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    ),
)
QWEN = replace(
    CHATML,
    name="qwen",
    tool="<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n",
    tools="qwen",
    default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    stop_words=("<|im_end|>",),
)
GEMMA = Template(
    "gemma",
    prefix="{{bos}}",
    user="<start_of_turn>user\n{{content}}<end_of_turn>\n",
    opening="<start_of_turn>model\n",
    assistant="{{content}}<end_of_turn>\n",
    system="{{content}}\n\n",
    tool="<start_of_turn>tool\n{{content}}<end_of_turn>\n",
    fused_system=True,
    stop_words=("<end_of_turn>",),
    replace_eos=True,
)
MINISTRAL = Template(  # Mistral's tokenizer v3 tekken
    "ministral",
    prefix="{{bos}}",
    user="[INST]{{content}}[/INST]",
    system="{{content}}\n\n",
    calls="[TOOL_CALLS]{{content}}{{eos}}",
    tool='[TOOL_RESULTS]{"content": {{content}}}[/TOOL_RESULTS]',
    tools="mistral",
    fused_system=True,
)
PHI = Template(
    "phi",
    user="<|user|>\n{{content}}<|end|>\n",
    opening="<|assistant|>\n",
    assistant="{{content}}<|end|>\n",
    system="<|system|>\n{{content}}<|end|>\n",
    stop_words=("<|end|>",),
    replace_eos=True,
)
GLM4 = Template(
    "glm4",
    prefix="[gMASK]<sop>",
    user="<|user|>\n{{content}}",
    opening="<|assistant|>",
    assistant="\n{{content}}",
    system="<|system|>\n{{content}}",
    calls="{{content}}",
    tool="<|observation|>\n{{content}}",
    tools="glm4",
    stop_words=("<|user|>", "<|observation|>"),
    efficient_eos=True,
)
GRANITE = Template(
    "granite3",
    user="<|start_of_role|>user<|end_of_role|>{{content}}<|end_of_text|>\n",
    opening="<|start_of_role|>assistant<|end_of_role|>",
    assistant="{{content}}<|end_of_text|>\n",
    system="<|start_of_role|>system<|end_of_role|>{{content}}<|end_of_text|>\n",
)
DEEPSEEK3 = Template("deepseek3", prefix="{{bos}}", user="<｜User｜>{{content}}", opening="<｜Assistant｜>")
SEED = Template(
    "seed_coder",
    user="{{bos}}user\n{{content}}{{eos}}",
    opening="{{bos}}assistant\n",
    system="{{bos}}system\n{{content}}{{eos}}",
    default_system=(
        "You are an AI programming assistant, utilizing the Seed-Coder model, developed by ByteDance Seed, and you "
        "only answer questions related to computer science. For politically sensitive questions, security and privacy "
        "issues, and other non-computer science questions, you will refuse to answer.\n\n"
    ),
)
LLAMA2 = Template(
    "llama2",
    user="{{bos}}[INST] {{content}} [/INST]",
    system="<<SYS>>\n{{content}}\n<</SYS>>\n\n",
    fused_system=True,
)
# chatml's slots with an end of their own kind; tools' results stand as a user's turn does
PLAIN = replace(CHATML, name="yi", tool=None, stop_words=("<|im_end|>",), replace_eos=False)

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        CHATML,
        LLAMA3,
        ALPACA,
        QWEN,
        replace(QWEN, name="qwen3", default_system="", reasoning=True),
        replace(QWEN, name="qwen3_nothink", default_system=""),
        replace(QWEN, name="qwen3_5", default_system="", tools="qwen3_5", reasoning=True),
        replace(QWEN, name="qwen3_5_nothink", default_system="", tools="qwen3_5"),
        replace(QWEN, name="qwen3_6", default_system="", tools="qwen3_5", reasoning=True),
        GEMMA,
        replace(GEMMA, name="gemma2", stop_words=("<eos>", "<end_of_turn>"), replace_eos=False, efficient_eos=True),
        replace(GEMMA, name="gemma3"),
        replace(GEMMA, name="gemma3n"),
        MINISTRAL,
        replace(
            MINISTRAL,
            name="mistral",
            user="[INST] {{content}}[/INST]",
            assistant=" {{content}}{{eos}}",
            calls="[TOOL_CALLS] {{content}}{{eos}}",
            tool='[TOOL_RESULTS] {"content": {{content}}}[/TOOL_RESULTS]',
        ),
        replace(
            MINISTRAL, name="mistral_small", system="[SYSTEM_PROMPT]{{content}}[/SYSTEM_PROMPT]", fused_system=False
        ),
        replace(MINISTRAL, name="ministral3"),
        Template(
            "default",
            user="Human: {{content}}{{eos}}\n",
            opening="Assistant:",
            assistant="{{content}}{{eos}}\n",
            system="System: {{content}}{{eos}}\n",
        ),
        Template(
            "deepseek",
            prefix="{{bos}}",
            user="User: {{content}}\n\n",
            opening="Assistant:",
            system="{{content}}\n\n",
        ),
        DEEPSEEK3,
        replace(DEEPSEEK3, name="deepseekr1", reasoning=True),
        Template(
            "deepseekcoder",
            prefix="{{bos}}",
            user="### Instruction:\n{{content}}\n",
            opening="### Response:",
            assistant="\n{{content}}\n<|EOT|>\n",
            default_system=(
                "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek "
                "Company, and you only answer questions related to computer science. For politically sensitive "
                "questions, security and privacy issues, and other non-computer science questions, you will refuse to "
                "answer.\n"
            ),
        ),
        PHI,
        replace(PHI, name="phi_small"),
        Template(
            "phi4",
            user="<|im_start|>user<|im_sep|>{{content}}<|im_end|>",
            opening="<|im_start|>assistant<|im_sep|>",
            assistant="{{content}}<|im_end|>",
            system="<|im_start|>system<|im_sep|>{{content}}<|im_end|>",
            stop_words=("<|im_end|>",),
            replace_eos=True,
        ),
        LLAMA2,
        Template(
            "vicuna",
            user="USER: {{content}} ",
            opening="ASSISTANT:",
            default_system=(
                "A chat between a curious user and an artificial intelligence assistant. "
                "The assistant gives helpful, detailed, and polite answers to the user's questions."
            ),
        ),
        Template(
            "zephyr",
            user="<|user|>\n{{content}}{{eos}}",
            opening="<|assistant|>\n",
            system="<|system|>\n{{content}}{{eos}}",
            default_system="You are Zephyr, a helpful assistant.",
        ),
        PLAIN,
        Template("empty", assistant="{{content}}"),
    )
}


def _end(template: Template) -> str | None:
    """The stop word that the answer's slot ends with, else the first one."""
    ending = [word for word in template.stop_words if word in template.assistant]
    return next(iter([*ending, *template.stop_words]), None)


# the token that ends a turn, where there is one
ENDS = {name: end for name, template in TEMPLATES.items() if (end := _end(template))}


SET_THINKING = re.compile(r"\{%- set enable_thinking = (true|false) %\}")


def set_thinking(tokenizer, enabled: bool | None) -> None:
    """Write into the tokenizer's chat template whether answers think (its `enable_thinking`); None leaves it open."""
    if enabled is not None and isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = f"{{%- set enable_thinking = {str(enabled).lower()} %}}{tokenizer.chat_template}"


def thinking_of(tokenizer) -> bool | None:
    """What `set_thinking` wrote."""
    match = SET_THINKING.match(tokenizer.chat_template) if isinstance(tokenizer.chat_template, str) else None
    return None if match is None else match[1] == "true"


def template_of(tokenizer) -> Template | None:
    """The named template that the tokenizer carries, with the system text that it carries; None: another one."""
    carried = tokenizer.chat_template
    if isinstance(carried, str):
        carried = SET_THINKING.sub("", carried, count=1)
    if not isinstance(carried, str) or not (match := re.match(r"\{# (\S+) #\}", carried)):
        return None
    template = TEMPLATES.get(match[1])
    text = re.match(re.escape(head_of(match[1], "")).replace('""', r'("(?:[^"\\]|\\.)*")'), carried)
    if template is None or text is None:
        return None
    template = replace(template, default_system=json.loads(text[1]))
    return template if template.jinja == carried else None


def set_template(tokenizer, name: str | None, key: str = "model.template", default_system: str | None = None) -> None:
    """Give `tokenizer` the chat template `name`, and its end token; None leaves its own.

    `default_system`: the system text of rows without one; None: the template's. UserError where the name is unknown,
    and where the tokenizer has no template and none is named (`key`: the option that names one).
    """
    if name is not None:
        if name not in TEMPLATES:
            raise UserError(f"{key}={name} is not a template{did_you_mean(name, TEMPLATES)}")
        template = TEMPLATES[name]
        if default_system is not None:
            template = replace(template, default_system=default_system)
        _set_ends(tokenizer, template, key)
        tokenizer.chat_template = template.jinja
    if tokenizer.chat_template is None:
        raise UserError(
            f"model {tokenizer.name_or_path} has no chat template; set {key} to one of "
            f"{', '.join(TEMPLATES)}, or use its instruction-tuned variant"
        )


def _set_ends(tokenizer, template: Template, key: str) -> None:
    """The template's stop words as special tokens of the tokenizer, as far as its vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    known = [word for word in template.stop_words if word in vocabulary]
    if template.replace_eos and tokenizer.eos_token != template.stop_words[0]:
        if template.stop_words[0] in known:
            tokenizer.add_special_tokens({"eos_token": template.stop_words[0]})
        else:
            log.warning(
                f"{key}={template.name}: {template.stop_words[0]}, which ends an answer, is no token of this "
                "tokenizer and is trained as text; take a template that fits the model"
            )
    if tokenizer.eos_token is None and "<|endoftext|>" in vocabulary:
        tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    tokenizer.add_tokens(known, special_tokens=True)
