"""The keys of DataFlex's and LLaMA-Factory's YAML files, and what becomes of each (docs/from_dataflex.md shows them).

A key is translated (`becomes`), has nothing to do here (`needless`: no word is said of it), or is not honoured: it is
named with its reason, unless its value asks for what happens anyway (`quiet`). Every other field of transformers'
TrainingArguments becomes `trainer.args.NAME`.
"""

from dataclasses import dataclass

OFF = (None, False, "")


@dataclass(frozen=True)
class Key:
    becomes: str = ""
    needless: str = ""
    reason: str = ""
    quiet: tuple = OFF


def to(becomes: str) -> Key:
    return Key(becomes=becomes)


def needless(why: str) -> Key:
    return Key(needless=why)


def cannot(reason: str, *quiet: object) -> Key:
    """`quiet`: further values that ask for what happens anyway."""
    return Key(reason=reason, quiet=(*OFF, *quiet))


MODEL = {
    "model_name_or_path": to("model.name_or_path"),
    "model_revision": to("model.revision"),
    "trust_remote_code": to("model.trust_remote_code"),
    "template": to("model.template (llama3, chatml, alpaca); with others the tokenizer's own chat template is used"),
    "pure_bf16": to("model.dtype=bfloat16"),
    "quantization_bit": to("finetuning=qlora; 8: with model.quantization.load_in_8bit"),
    "quantization_type": to("model.quantization.bnb_4bit_quant_type"),
    "double_quantization": to("model.quantization.bnb_4bit_use_double_quant"),
    "quantization_method": cannot("quantised by bitsandbytes", "bnb", "bitsandbytes"),
    "quantization_device_map": cannot("the layers go to the accelerator of their process"),
    "enable_liger_kernel": to("trainer.args.use_liger_kernel"),
    "flash_attn": cannot("attention is what transformers chooses for the model", "auto", "sdpa"),
    "adapter_name_or_path": cannot("training begins with a new adapter"),
    "adapter_folder": cannot("training begins with a new adapter"),
    "cache_dir": cannot("models lie where HF_HOME says"),
    "use_fast_tokenizer": cannot("tokenizers are the fast ones", True),
    "resize_vocab": cannot("the vocabulary stays as it is"),
    "split_special_tokens": cannot("special tokens stay whole"),
    "add_tokens": cannot("the vocabulary stays as it is"),
    "add_special_tokens": cannot("the vocabulary stays as it is"),
    "new_special_tokens_config": cannot("the vocabulary stays as it is"),
    "init_special_tokens": cannot("the vocabulary stays as it is", "noise_init"),
    "rope_scaling": cannot("the model's positions stay as they are"),
    "shift_attn": cannot("attention is the model's own"),
    "mixture_of_depths": cannot("the model's layers stay as they are"),
    "use_unsloth": cannot("transformers' own modules train"),
    "use_unsloth_gc": cannot("use gradient_checkpointing: true"),
    "use_v1_kernels": cannot("transformers' own modules train"),
    "use_kt": cannot("transformers' own modules train"),
    "moe_aux_loss_coef": cannot("the loss is that of the tokens alone"),
    "upcast_layernorm": cannot("weights keep the type they are loaded in"),
    "upcast_lmhead_output": cannot("weights keep the type they are loaded in"),
    "train_from_scratch": cannot("the model's weights are loaded"),
    "low_cpu_mem_usage": needless("always so"),
    "disable_gradient_checkpointing": needless("gradient_checkpointing says it; off unless asked for"),
    "use_reentrant_gc": needless("changes no result"),
    "print_param_status": needless("changes no result"),
    "infer_backend": needless("changes no training"),
    "infer_dtype": needless("changes no training"),
    "offload_folder": needless("changes no training"),
    "use_kv_cache": needless("changes no training"),
}
DATA = {
    "dataset": to("data.candidates.path, with data.candidates.dataset_info"),
    "dataset_dir": to("data.*.dataset_info=DIR/dataset_info.json; ONLINE: names are hub ids"),
    "eval_dataset": to("data.queries, the target, where the selector has one; else data.eval"),
    "val_size": to("data.queries or data.eval: the first rows of the data set, left out of the pool"),
    "max_samples": to("data.*.limit, for each data set"),
    "cutoff_len": to("data.cutoff_len"),
    "preprocessing_num_workers": to("data.num_proc"),
    "overwrite_cache": to("data.refresh"),
    "train_on_prompt": cannot("loss falls on the assistant's turns only"),
    "mask_history": cannot("loss falls on all of the assistant's turns"),
    "streaming": cannot("rows are read once into a memory-mapped table"),
    "mix_strategy": cannot("data sets are put one after another into one pool", "concat"),
    "interleave_probs": cannot("data sets are put one after another into one pool"),
    "packing": cannot("a row is a sequence of its own; trainer.group_by_length=true wastes less padding"),
    "neat_packing": cannot("a row is a sequence of its own; trainer.group_by_length=true wastes less padding"),
    "ignore_pad_token_for_loss": cannot("padding has no loss", True),
    "eval_on_each_dataset": cannot("evaluated on all together; data.more_eval names further sets"),
    "eval_num_beams": cannot("answers are greedy", 1),
    "tool_format": cannot("the chat template decides"),
    "default_system": cannot("the chat template decides; a system turn belongs into the rows"),
    "enable_thinking": cannot("the chat template decides", True),
    "preserve_thinking": cannot("the chat template decides"),
    "tokenized_path": cannot("tokens are kept in cache_dir by themselves"),
    "mixture_sample_rule": cannot("mixer says it"),
    "init_mixture_proportions": cannot("mixer says it"),
    "mixer_eval_dataset": cannot("no mixer here evaluates"),
    "media_dir": needless("texts only"),
    "buffer_size": needless("of streaming"),
    "preprocessing_batch_size": needless("changes no result"),
    "data_shared_file_system": needless("cache_dir may be shared"),
}
FINETUNING = {
    "stage": to("sft; others are refused"),
    "finetuning_type": to("finetuning=lora, full; others are refused"),
    "lora_rank": to("finetuning.r"),
    "lora_alpha": to("finetuning.lora_alpha (twice the rank where it is not given)"),
    "lora_dropout": to("finetuning.lora_dropout"),
    "lora_target": to("finetuning.target_modules (all: all-linear)"),
    "additional_target": to("finetuning.modules_to_save"),
    "use_dora": to("finetuning=dora"),
    "use_rslora": to("finetuning.use_rslora"),
    "pissa_init": to("finetuning.init_lora_weights=pissa_niter_16"),
    "pissa_iter": to("the number in pissa_niter_16; -1: pissa"),
    "pissa_convert": cannot("the adapter stays a PiSSA one"),
    "loraplus_lr_ratio": cannot("one learning rate for all weights"),
    "loraplus_lr_embedding": cannot("one learning rate for all weights", 1e-6),
    "create_new_adapter": needless("always so"),
    "module_dropout": cannot("no OFT", 0, 0.0),
    "use_llama_pro": cannot("the model's layers stay as they are"),
    "use_galore": cannot("not among the optimizers (optim)"),
    "use_apollo": cannot("not among the optimizers (optim)"),
    "use_badam": cannot("not among the optimizers (optim)"),
    "use_adam_mini": cannot("not among the optimizers (optim)"),
    "use_muon": cannot("not among the optimizers (optim)"),
    "use_mca": cannot("transformers' Trainer trains"),
    "use_hyper_parallel": cannot("transformers' Trainer trains"),
    "use_dft_loss": cannot("the loss is cross entropy"),
    "use_asft_loss": cannot("the loss is cross entropy"),
    "use_eaft_loss": cannot("the loss is cross entropy"),
    "compute_accuracy": cannot("losses and graded answers are measured"),
    "disable_shuffling": cannot("a round's rows are shuffled by the seed"),
    "early_stopping_steps": cannot("training runs its whole length"),
    "early_stopping_min_delta": cannot("training runs its whole length", 0, 0.0),
    "freeze_gate": cannot("every expert's gate is as the adapter leaves it"),
    "plot_loss": needless("always so: loss.png"),
    "include_effective_tokens_per_second": needless("train_metrics.json has rows_per_second"),
    "freeze_vision_tower": needless("texts only"),
    "freeze_multi_modal_projector": needless("texts only"),
    "freeze_language_model": cannot("the language model is what trains"),
}
DYNAMIC = {
    "train_type": to("trainer=dynamic_select, dynamic_weight, dynamic_mix, static"),
    "component_name": to("selector=, weighter= or mixer="),
    "components_cfg_file": to("its params: the second table"),
    "warmup_step": to("trainer.warmup_step"),
    "update_step": to("trainer.update_step"),
    "update_times": to("trainer.update_times"),
    "num_train_epochs": to("trainer.cycles; static: trainer.args.num_train_epochs"),
    "train_step": to("trainer.cycles: as many as make that number of steps"),
    "max_steps": to("static: trainer.args.max_steps; else the schedule decides the length, there as here"),
    "static_mix": cannot("mixer=static says it"),
}
TRAINING = {
    "output_dir": to("output_dir"),
    "overwrite_output_dir": to("overwrite"),
    "resume_from_checkpoint": to("resume"),
    "seed": to("seed"),
    "warmup_ratio": to("trainer.args.warmup_steps, below 1 a share of the steps"),
    "evaluation_strategy": to("trainer.args.eval_strategy"),
    "predict_with_generate": to("evaluation.answers (off unless asked for)"),
    "group_by_length": to("trainer.group_by_length; static: trainer.args.train_sampling_strategy"),
    "train_sampling_strategy": to("trainer.group_by_length; static: trainer.args.train_sampling_strategy"),
    "no_cuda": to("trainer.args.use_cpu"),
    "ddp_timeout": to("trainer.args.ddp_timeout"),
    "deepspeed": to("parallel=deepspeed_z0, z2, z3 by its stage, and parallel.deepspeed=FILE"),
    "fsdp": to("parallel=fsdp"),
    "fsdp_config": cannot("parallel.fsdp_config says it"),
    "report_to": to("tracker=, the first that is there"),
    "use_swanlab": to("tracker=swanlab"),
    "swanlab_project": to("tracker.project"),
    "swanlab_workspace": to("tracker.workspace"),
    "swanlab_mode": to("tracker.mode"),
    "swanlab_logdir": to("tracker.logdir"),
    "swanlab_run_name": cannot("a run is named by its folder"),
    "run_name": cannot("a run is named by its folder"),
    "project": to("tracker.project"),
    "data_seed": cannot("seed says it"),
    "do_predict": cannot("python eval.py run=RUN"),
    "push_to_hub": cannot("nothing is uploaded"),
    "remove_unused_columns": needless("rows hold what trains, whatever their columns"),
    "do_train": to("true; a file that asks for no training is refused"),
    "do_eval": needless("the end of a run is evaluated"),
    "save_safetensors": cannot("weights are saved as safetensors", True),
    "logging_dir": cannot("logs lie in the run's folder"),
    "local_rank": needless("torchrun says it"),
    "auto_find_batch_size": cannot("it would break the rounds"),
    "ignore_data_skip": cannot("a resumed run goes on where it was"),
    "dataloader_persistent_workers": cannot("it would break the rounds"),
    "dataloader_drop_last": cannot("a round holds whole batches anyway"),
}
TRAIN = {**MODEL, **DATA, **FINETUNING, **DYNAMIC, **TRAINING}
# Options of something that is not here, by how they begin.
FAMILIES = {
    "galore_": "no GaLore",
    "apollo_": "no APOLLO",
    "badam_": "no BAdam",
    "oft_": "no OFT",
    "freeze_": "no freezing",
    "ppo_": "no PPO",
    "pref_": "no preferences",
    "dpo_": "no DPO",
    "kto_": "no KTO",
    "simpo_": "no SimPO",
    "ref_model": "no preferences",
    "reward_model": "no preferences",
    "asft_": "the loss is cross entropy",
    "eaft_": "the loss is cross entropy",
    "ray_": "hydra/launcher=ray runs jobs on a cluster",
    "vllm_": "evaluation.backend=vllm and evaluation.engine say it",
    "sglang_": "no SGLang",
    "kt_": "transformers' own modules train",
    "image_": "texts only",
    "video_": "texts only",
    "audio_": "texts only",
    "fp8": "bf16 and fp16 only",
    "export_": "python merge.py exports",
    "generation_": "answers are greedy; evaluation.max_new_tokens bounds them",
    "hub_": "nothing is uploaded",
    "swanlab_": "not an option of the tracker here",
    "trackio_": "not an option of the tracker here",
}


def family(key: str) -> str | None:
    """Why an option of something that is not here is not honoured; None for any other key."""
    return next((why for start, why in FAMILIES.items() if key.startswith(start)), None)


MERGE = {
    "model_name_or_path": to("model_name_or_path"),
    "adapter_name_or_path": to("adapter_name_or_path; of a run's folder its adapter/"),
    "trust_remote_code": to("trust_remote_code"),
    "template": to("template (llama3, chatml, alpaca); with others the tokenizer's own chat template is kept"),
    "export_dir": to("export_dir"),
    "export_size": to("export_size"),
    "export_device": to("export_device"),
    "export_legacy_format": to("export_legacy_format"),
    "infer_dtype": to("export_dtype; auto: float32"),
    "finetuning_type": needless("the adapter says it"),
    "stage": needless("the adapter says it"),
    "export_quantization_bit": cannot("the merged model is not quantised"),
    "export_hub_model_id": cannot("nothing is uploaded"),
    "quantization_bit": cannot("an adapter is merged into whole weights"),
    "model_revision": cannot("the adapter names the revision", "main"),
    "cache_dir": cannot("models lie where HF_HOME says"),
}
OFFLINE = {
    "candidate_path": to("data.candidates.path (a hub id: with split train)"),
    "query_path": to("data.queries.path (a hub id: with split train, of the candidates' own: validation)"),
    "embed_model": to("embedder=, embedder.model"),
    "model_name": to("embedder=, embedder.model"),
    "embed_method": to("embedder.backend"),
    "batch_size": to("embedder.batch_size"),
    "max_K": to("max_K"),
    "save_indices_path": to("output_dir; the file in it is top_indices.npy"),
    "cache_dir": to("cache_dir"),
}
