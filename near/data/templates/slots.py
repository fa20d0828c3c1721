"""The slots of every named chat template, with the values of LLaMA-Factory's template of the same name.

Not included: templates for images and audio, and those of models that need custom code.
"""

from dataclasses import replace

from near.data.templates.chat_template import Template

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
GRANITE3 = Template(
    "granite3",
    user="<|start_of_role|>user<|end_of_role|>{{content}}<|end_of_text|>\n",
    opening="<|start_of_role|>assistant<|end_of_role|>",
    assistant="{{content}}<|end_of_text|>\n",
    system="<|start_of_role|>system<|end_of_role|>{{content}}<|end_of_text|>\n",
)
DEEPSEEK3 = Template("deepseek3", prefix="{{bos}}", user="<｜User｜>{{content}}", opening="<｜Assistant｜>")
LLAMA2 = Template(
    "llama2",
    user="{{bos}}[INST] {{content}} [/INST]",
    system="<<SYS>>\n{{content}}\n<</SYS>>\n\n",
    fused_system=True,
)
# chatml's slots with another end token; results of tools are written like a user's turn
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
        replace(CHATML, name="chatml_de", default_system="Du bist ein freundlicher und hilfsbereiter KI-Assistent."),
        replace(CHATML, name="cpm4", prefix="{{bos}}", stop_words=("<|im_end|>",), replace_eos=False),
        replace(
            CHATML,
            name="falcon_h1",
            prefix="{{bos}}",
            stop_words=("<|im_end|>", "<|end_of_text|>"),
            replace_eos=False,
        ),
        replace(
            CHATML,
            name="opencoder",
            default_system="You are OpenCoder, created by OpenCoder Team.",
            stop_words=("<|im_end|>",),
            replace_eos=False,
        ),
        replace(
            CHATML,
            name="lfm2",
            tool="<|im_start|>tool\n<|tool_response_start|>{{content}}<|tool_response_end|><|im_end|>\n",
            tools="lfm2",
            default_system="You are a helpful AI assistant.",
            stop_words=("<|im_end|>",),
        ),
        replace(PLAIN, name="smollm"),
        replace(
            PLAIN,
            name="smollm2",
            default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
        ),
        replace(
            PLAIN,
            name="sailor",
            user="<|im_start|>question\n{{content}}<|im_end|>\n",
            opening="<|im_start|>answer\n",
            default_system=(
                "You are an AI assistant named Sailor created by Sea AI Lab. "
                "Your answer should be friendly, unbiased, faithful, informative and detailed."
            ),
        ),
        replace(QWEN, name="mimo", default_system="You are a helpful assistant.", reasoning=True),
        replace(
            PHI,
            name="phi4_mini",
            user="<|user|>{{content}}<|end|>",
            opening="<|assistant|>",
            assistant="{{content}}<|end|>",
            system="<|system|>{{content}}<|end|>",
            tools="phi4_mini",
        ),
        replace(
            LLAMA3,
            name="llama4",
            user="<|header_start|>user<|header_end|>\n\n{{content}}<|eot|>",
            opening="<|header_start|>assistant<|header_end|>\n\n",
            assistant="{{content}}<|eot|>",
            system="<|header_start|>system<|header_end|>\n\n{{content}}<|eot|>",
            tool="<|header_start|>ipython<|header_end|>\n\n{{content}}<|eot|>",
            stop_words=("<|eot|>", "<|eom|>"),
        ),
        replace(LLAMA2, name="llama2_zh", default_system="You are a helpful assistant. 你是一个乐于助人的助手。"),
        GLM4,
        replace(GLM4, name="glmz1", reasoning=True),
        replace(GLM4, name="glm4_moe", tools="glm4_moe", reasoning=True),
        replace(
            GLM4,
            name="glm4_7",
            tools="glm4_moe",
            reasoning=True,
            thought=("<think>", "</think>"),
            empty_thought="</think>",
        ),
        GRANITE3,
        replace(
            GRANITE3,
            name="granite4",
            tool="<|start_of_role|>tool<|end_of_role|>{{content}}<|end_of_text|>\n",
            tool_opening="<|start_of_role|>assistant\n",
            default_system="You are Granite, developed by IBM. You are a helpful AI assistant.",
            stop_words=("<|end_of_text|>",),
        ),
        Template(
            "seed_coder",
            user="{{bos}}user\n{{content}}{{eos}}",
            opening="{{bos}}assistant\n",
            system="{{bos}}system\n{{content}}{{eos}}",
            default_system=(
                "You are an AI programming assistant, utilizing the Seed-Coder model, developed by ByteDance Seed, "
                "and you only answer questions related to computer science. For politically sensitive questions, "
                "security and privacy issues, and other non-computer science questions, you will refuse to answer.\n\n"
            ),
        ),
        Template("olmo", prefix="{{eos}}", user="<|user|>\n{{content}}", opening="<|assistant|>\n"),
        Template(
            "openchat",
            prefix="{{bos}}",
            user="GPT4 Correct User: {{content}}{{eos}}",
            opening="GPT4 Correct Assistant:",
        ),
        Template(
            "openchat-3.6",
            prefix="{{bos}}",
            user="<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n{{content}}<|eot_id|>",
            opening="<|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\n",
            stop_words=("<|eot_id|>",),
        ),
        Template(
            "solar",
            user="### User:\n{{content}}\n\n",
            opening="### Assistant:\n",
            assistant="{{content}}",
            system="### System:\n{{content}}\n\n",
            efficient_eos=True,
        ),
        Template(
            "starchat",
            user="<|user|>\n{{content}}<|end|>\n",
            opening="<|assistant|>",
            assistant="{{content}}<|end|>\n",
            system="<|system|>\n{{content}}<|end|>\n",
            stop_words=("<|end|>",),
        ),
        Template(
            "exaone",
            user="[|user|]{{content}}\n",
            opening="[|assistant|]",
            assistant="{{content}}{{eos}}\n",
            system="[|system|]{{content}}[|endofturn|]\n",
        ),
        Template(
            "cohere",
            prefix="{{bos}}",
            user="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>",
            opening="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>",
        ),
        Template(
            "falcon",
            user="User: {{content}}\n",
            opening="Falcon:",
            assistant="{{content}}\n",
            efficient_eos=True,
        ),
        Template("fewshot", assistant="{{content}}\n\n", efficient_eos=True),
        Template(
            "gpt_oss",
            user="<|start|>user<|message|>{{content}}<|end|>",
            opening="<|start|>assistant",
            assistant="{{content}}",
            system="<|start|>system<|message|>{{content}}<|end|>",
            default_system="You are ChatGPT, a large language model trained by OpenAI.",
            thought=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
            reasoning=True,
            efficient_eos=True,
        ),
        Template("empty", assistant="{{content}}"),
    )
}
