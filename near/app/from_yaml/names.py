"""The names of LLaMA-Factory's templates, to distinguish one that near does not have from a mistyped one."""

TEXT = """
aeva alpaca bailing bailing_v2 breeze chatglm3 chatml chatml_de cohere cpm4 dbrx deepseek deepseek3 deepseekcoder
deepseekr1 default empty ernie ernie_nothink exaone falcon falcon_h1 fewshot gemma gemma2 glm4 glm4_7 glm4_moe glmz1
gpt_oss granite3 granite4 hunyuan hunyuan_small hy3 hy_dense_1_8b hy_dense_7b index intern2 lfm2 llama2 llama2_zh llama3
mimo mimo_v2 minimax1 minimax2 ministral mistral moonlight olmo openchat openchat-3.6 opencoder phi phi4 phi4_mini
phi_small qwen qwen3 qwen3_nothink sailor seed_coder seed_oss smollm smollm2 solar starchat telechat2 vicuna xuanyuan
yi youtu yuan zephyr
""".split()

# of models that see images or hear
MULTIMODAL = """
dots_ocr ernie_vl gemma3 gemma3n gemma4 gemma4n glm4_5v glm4v glm_ocr granite3_vision intern_s1 intern_vl keye_vl
kimi_vl lfm2_vl llama4 llava llava_next llava_next_llama3 llava_next_mistral llava_next_qwen llava_next_video
llava_next_video_mistral llava_next_video_yi llava_next_yi mimo_vl minicpm_o minicpm_v minicpm_v_4_6 ministral3
mistral_small mllama moss_vl paligemma paligemma_chat pixtral qwen2_audio qwen2_omni qwen2_vl qwen3_5 qwen3_5_nothink
qwen3_6 qwen3_omni qwen3_omni_nothink qwen3_vl qwen3_vl_nothink video_llava yi_vl youtu_vl
""".split()
