"""Tokenizers of several kinds, trained on the spot in a second: what answers begin with is cut differently by each."""

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "the quick brown fox jumps over the lazy dog\n\n    return x + 1\n",
    "def f(n):\n        if n < 2:\n            return n\n\treturn f(n - 1)\n",
    "1 234,567.89 2024-05-17 3/4 \\frac{1}{2} 你好，世界 多くの言葉 🙂🚀 café naïve\n\n\n",
    "user assistant system answer question \n \n  hello hello  there <b> </b> {} 'q' \"x\" # : [INST]",
] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (  # an answer between a space and the end token; BOS before every question
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'system' %}<<SYS>>{{ m['content'] }}<</SYS>>"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
SPACED = (  # generation goes on behind a space
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
ENDLESS = (  # ends no turn
    "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)
OWN_TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "spaced": SPACED, "endless": ENDLESS}


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's, with BOS and EOS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def without_bos() -> PreTrainedTokenizerFast:
    """Byte-level BPE over whole texts, so that merges cross words and lines; no BOS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<pad>")


def sentencepiece(scheme: str = "first") -> PreTrainedTokenizerFast:
    """BPE with byte fallback over SentencePiece's spaces and its dummy prefix ("first": before a text's first word;
    "always": also behind special tokens), as Llama 2's; a BOS is put before a text."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *SPECIAL, *byte_tokens])
    core.train_from_iterator(CORPUS, trainer)
    bos = core.token_to_id("<s>")
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's unigram model over normalised text, as T5's and Gemma's family have it; its prefix comes from a
    normalizer, as legacy conversions have it."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    alphabet = sorted(set("".join(CORPUS)) - {" "} | {"▁"} | set(string.ascii_letters + string.digits))
    trainer = trainers.UnigramTrainer(
        vocab_size=800, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>", initial_alphabet=alphabet
    )
    core.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


KINDS = {
    "byte-level": byte_level,
    "without BOS": without_bos,
    "dummy prefix": sentencepiece,
    "prefix always": lambda: sentencepiece("always"),
    "unigram": unigram,
}
