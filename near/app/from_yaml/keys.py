"""The keys of DataFlex's and LLaMA-Factory's YAML files, and what becomes of each (docs/from_dataflex.md shows them).

A key is translated (`becomes`), has nothing to do here (`needless`: no word is said of it), or is not honoured: it is
named with its reason, unless its value is its default there (defaults.yaml) or another that asks for what happens
anyway (`quiet`). Every other field of transformers' TrainingArguments becomes `trainer.args.NAME`.
"""

from dataclasses import dataclass

from near.app.from_yaml.defaults import defaults, groups


@dataclass(frozen=True)
class Key:
    becomes: str = ""
    needless: str = ""
    reason: str = ""
    quiet: tuple = ()


def to(becomes: str) -> Key:
    return Key(becomes=becomes)


def needless(why: str) -> Key:
    return Key(needless=why)


def cannot(reason: str, *quiet: object) -> Key:
    """`quiet`: further values that ask for what happens anyway."""
    return Key(reason=reason, quiet=quiet)


MODEL = {
    "model_name_or_path": to("model.name_or_path"),
    "model_revision": to("model.revision"),
    "trust_remote_code": cannot("it runs the model's own code; if you trust that, type model.trust_remote_code=true"),
    "template": to("model.template, by its name; one that is not built here is refused"),
    "pure_bf16": to("model.dtype=bfloat16"),
    "quantization_bit": to("finetuning=qlora; 8: with model.quantization.load_in_8bit"),
    "quantization_type": to("model.quantization.bnb_4bit_quant_type"),
    "double_quantization": to("model.quantization.bnb_4bit_use_double_quant"),
    "quantization_method": cannot("quantised by bitsandbytes", "bitsandbytes"),
    "quantization_device_map": cannot("the layers go to the accelerator of their process"),
    "enable_liger_kernel": to("trainer.args.use_liger_kernel"),
    "flash_attn": cannot("attention is what transformers chooses for the model", "sdpa"),
    "adapter_name_or_path": cannot("training begins with a new adapter"),
    "adapter_folder": cannot("training begins with a new adapter"),
    "cache_dir": cannot("models lie where HF_HOME says"),
    "use_fast_tokenizer": cannot("tokenizers are the fast ones"),
    "resize_vocab": cannot("the vocabulary stays as it is"),
    "split_special_tokens": to("model.split_special_tokens"),
    "add_tokens": cannot("the vocabulary stays as it is"),
    "add_special_tokens": cannot("the vocabulary stays as it is"),
    "new_special_tokens_config": cannot("the vocabulary stays as it is"),
    "init_special_tokens": cannot("the vocabulary stays as it is"),
    "rope_scaling": cannot("the model's positions stay as they are"),
    "shift_attn": cannot("attention is the model's own"),
    "mixture_of_depths": cannot("the model's layers stay as they are"),
    "use_unsloth": cannot("transformers' own modules train"),
    "use_unsloth_gc": cannot("use gradient_checkpointing: true"),
    "use_v1_kernels": cannot("transformers' own modules train"),
    "moe_aux_loss_coef": cannot("the loss is that of the tokens alone"),
    "upcast_layernorm": to("model.upcast_layernorm"),
    "upcast_lmhead_output": cannot("weights keep the type they are loaded in"),
    "train_from_scratch": cannot("the model's weights are loaded"),
    "low_cpu_mem_usage": needless("always so"),
    "disable_gradient_checkpointing": needless("gradient_checkpointing says it; off unless asked for"),
    "use_reentrant_gc": needless("changes no result"),
    "print_param_status": needless("changes no result"),
    "profile_modules": cannot("no profiler runs"),
    "enable_torch_profiler": cannot("no profiler runs"),
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
    "train_on_prompt": to("data.train_on_prompt"),
    "mask_history": to("data.mask_history"),
    "streaming": cannot("rows are read once into a memory-mapped table"),
    "mix_strategy": to(
        "interleave_under, interleave_over: trainer=dynamic_mix with mixer=static; interleave_once: as concat"
    ),
    "interleave_probs": to("mixer.proportions, by data set"),
    "packing": cannot("a row is a sequence of its own; trainer.group_by_length=true wastes less padding", False),
    "neat_packing": cannot("a row is a sequence of its own; trainer.group_by_length=true wastes less padding"),
    "ignore_pad_token_for_loss": cannot("padding has no loss"),
    "eval_on_each_dataset": to("data.more_eval, each data set beside all of them together"),
    "eval_num_beams": cannot("answers are greedy", 1),
    "tool_format": cannot("the template decides how tools are written"),
    "default_system": to("data.default_system"),
    "enable_thinking": to(
        "model.enable_thinking, of a reasoning model's template; false without `template`: with data.reasoning=drop"
    ),
    "preserve_thinking": cannot("the template decides what thinking of earlier turns is kept"),
    "tokenized_path": cannot("tokens are kept in cache_dir by themselves"),
    "mixture_sample_rule": to(
        "mixture: the proportions; stratified: mixer=static by size; uniform: mixer=static, alike"
    ),
    "init_mixture_proportions": to("mixer.initial, of warm-ups; static_mix: mixer.proportions"),
    "mixer_eval_dataset": cannot("no mixer here evaluates on sets of its own"),
    "media_dir": needless("texts only"),
    "buffer_size": needless("of streaming"),
    "preprocessing_batch_size": needless("changes no result"),
    "data_shared_file_system": needless("cache_dir may be shared"),
}
FINETUNING = {
    "stage": to("sft; pt: plain text; others are refused"),
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
    "pissa_convert": needless("always so: a PiSSA adapter is saved as a LoRA one"),
    "loraplus_lr_ratio": to("trainer.loraplus.lr_ratio"),
    "loraplus_lr_embedding": to("trainer.loraplus.lr_embedding"),
    "create_new_adapter": needless("always so"),
    "module_dropout": cannot("no OFT"),
    "use_llama_pro": cannot("the model's layers stay as they are"),
    "use_galore": to(
        "optim=galore_adamw of trainer.args, with its options, where galore_torch is installed; else not honoured"
    ),
    "use_apollo": to(
        "optim=apollo_adamw of trainer.args, with its options, where apollo_torch is installed; else not honoured"
    ),
    "use_badam": cannot("BAdam is not among the optimizers of transformers' TrainingArguments (optim)"),
    "use_adam_mini": cannot("Adam-mini is not among the optimizers of transformers' TrainingArguments (optim)"),
    "use_muon": cannot("Muon is not among the optimizers of transformers' TrainingArguments (optim)"),
    "use_mca": cannot("transformers' Trainer trains"),
    "use_megatron_bridge": cannot("transformers' Trainer trains"),
    "use_hyper_parallel": cannot("transformers' Trainer trains"),
    "use_dft_loss": cannot("the loss is cross entropy"),
    "use_asft_loss": cannot("the loss is cross entropy"),
    "use_eaft_loss": cannot("the loss is cross entropy"),
    "compute_accuracy": cannot("losses and graded answers are measured"),
    "ld_alpha": cannot("no preferences"),
    "use_audio_in_video": cannot("texts only"),
    "crop_to_patches": cannot("texts only"),
    "include_inputs_for_metrics": needless("of metrics that are not computed by the Trainer here"),
    "disable_shuffling": to(
        "static: trainer.args.train_sampling_strategy=sequential; a round's rows are shuffled by the seed"
    ),
    "early_stopping_steps": cannot("training runs its whole length"),
    "early_stopping_min_delta": cannot("training runs its whole length"),
    "freeze_gate": cannot("every expert's gate is as the adapter leaves it"),
    "plot_loss": needless("always so: loss.png"),
    "include_tokens_per_second": needless("train_metrics.json has rows_per_second"),
    "include_effective_tokens_per_second": needless("train_metrics.json has rows_per_second"),
    "freeze_vision_tower": cannot("texts only: no vision tower trains"),
    "freeze_multi_modal_projector": cannot("texts only: no projector trains"),
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
    "static_mix": to(
        "mixer=static with init_mixture_proportions, for one stretch of train_step steps or num_train_epochs passes"
    ),
}
TRAINING = {
    "output_dir": to("output_dir"),
    "overwrite_output_dir": to("overwrite"),
    "resume_from_checkpoint": to("resume"),
    "seed": to("seed"),
    "warmup_ratio": to("trainer.args.warmup_steps, below 1 a share of the steps"),
    "evaluation_strategy": to("trainer.args.eval_strategy"),
    "predict_with_generate": to("evaluation.answers (off unless asked for)"),
    "max_new_tokens": to("evaluation.max_new_tokens, with predict_with_generate"),
    "skip_special_tokens": cannot("special tokens are left out of answers"),
    "max_length": cannot("evaluation.max_new_tokens bounds answers"),
    "length_penalty": cannot("answers are greedy"),
    "repetition_penalty": cannot("answers are greedy"),
    "num_beams": cannot("answers are greedy"),
    "top_k": cannot("answers are greedy", 1),
    "top_p": cannot("answers are greedy", 1),
    "temperature": cannot("answers are greedy", 0),
    "do_sample": cannot("answers are greedy", False),
    "group_by_length": to("trainer.group_by_length; static: trainer.args.train_sampling_strategy"),
    "train_sampling_strategy": to("trainer.group_by_length; static: trainer.args.train_sampling_strategy"),
    "no_cuda": to("trainer.args.use_cpu"),
    "per_gpu_eval_batch_size": to("trainer.args.per_device_eval_batch_size"),
    "per_gpu_train_batch_size": to("trainer.args.per_device_train_batch_size"),
    "adafactor": to("optim=adafactor of trainer.args"),
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
    "save_safetensors": cannot("weights are saved as safetensors"),
    "use_mps_device": cannot("the accelerator is the one there is"),
    "push_to_hub_organization": cannot("nothing is uploaded"),
    "push_to_hub_model_id": cannot("nothing is uploaded"),
    "sortish_sampler": cannot("train_sampling_strategy says it"),
    "use_legacy_prediction_loop": cannot("there is one loop of evaluation"),
    "mp_parameters": cannot("no SageMaker"),
    "tpu_metrics_debug": cannot("no TPU"),
    "tpu_num_cores": cannot("no TPU"),
    "torchdynamo": cannot("torch_compile says it"),
    "past_index": cannot("no model here keeps memories from batch to batch"),
    "jit_mode_eval": cannot("evaluation runs without jit"),
    "fsdp_transformer_layer_cls_to_wrap": cannot("parallel.fsdp_config says it"),
    "fsdp_min_num_params": cannot("parallel.fsdp_config says it"),
    "fp16_opt_level": cannot("half precision is torch's own"),
    "half_precision_backend": cannot("half precision is torch's own", "amp", "cuda_amp", "cpu_amp"),
    "fp16_backend": cannot("half precision is torch's own", "amp"),
    "logging_dir": cannot("logs lie in the run's folder"),
    "local_rank": needless("torchrun says it"),
    "debug": needless("changes no result"),
    "master_port": needless("torchrun says it"),
    "master_addr": needless("torchrun says it"),
    "auto_find_batch_size": cannot("it would break the rounds"),
    "ignore_data_skip": cannot("a resumed run goes on where it was"),
    "dataloader_persistent_workers": cannot("it would break the rounds"),
    "dataloader_drop_last": cannot("a round holds whole batches anyway"),
}
TRAIN = {**MODEL, **DATA, **FINETUNING, **DYNAMIC, **TRAINING}
# Options of something that is not here, by how they begin.
FAMILIES = {
    "galore_": "of GaLore, which does not train here",
    "apollo_": "of APOLLO, which does not train here",
    "badam_": "no BAdam",
    "oft_": "no OFT",
    "freeze_": "of finetuning_type: freeze, which is not trained here",
    "ppo_": "no PPO",
    "pref_": "no preferences",
    "dpo_": "no preferences",
    "kto_": "no preferences",
    "simpo_": "no preferences",
    "ref_model": "no preferences",
    "reward_model": "no preferences",
    "asft_": "the loss is cross entropy",
    "eaft_": "the loss is cross entropy",
    "hyper_parallel_": "parallel says how processes share the model",
    "ray_": "hydra/launcher=ray runs jobs on a cluster",
    "vllm_": "evaluation.backend=vllm and evaluation.engine say it",
    "sglang_": "no SGLang",
    "kt_": "no KTransformers: transformers' own modules train",
    "use_kt": "no KTransformers: transformers' own modules train",
    "image_": "texts only",
    "video_": "texts only",
    "audio_": "texts only",
    "fp8": "bf16 and fp16 only",
    "export_": "python merge.py exports",
    "generation_": "answers are greedy; evaluation.max_new_tokens bounds them",
    "hub_": "nothing is uploaded",
    "swanlab_": "not an option of the tracker here",
    "trackio_": "not an option of the tracker here",
    "profiler_": "no profiler runs",
}
MEGATRON = "Megatron's; parallel says how processes share the model"


def family(key: str) -> str | None:
    """Why an option of something that is not here is not honoured; None for any other key."""
    if key in groups()["megatron"]:
        return MEGATRON
    return next((why for start, why in FAMILIES.items() if key.startswith(start)), None) if key in defaults() else None


MERGE = {
    "model_name_or_path": to("model_name_or_path"),
    "adapter_name_or_path": to(
        "adapter_name_or_path; several are merged one after another; of a run's folder its adapter/"
    ),
    "trust_remote_code": cannot("it runs the model's own code; if you trust that, type trust_remote_code=true"),
    "template": to("template, by its name; one that is not built here is refused"),
    "export_dir": to("export_dir"),
    "export_size": to("export_size"),
    "export_device": to("export_device"),
    "export_legacy_format": to("export_legacy_format"),
    "infer_dtype": to("export_dtype; auto: float32"),
    "finetuning_type": needless("the adapter says it"),
    "stage": needless("the adapter says it"),
    "infer_backend": needless("nothing is generated"),
    "export_quantization_bit": cannot("the merged model is not quantised"),
    "export_quantization_dataset": cannot("the merged model is not quantised"),
    "export_quantization_nsamples": cannot("the merged model is not quantised"),
    "export_quantization_maxlen": cannot("the merged model is not quantised"),
    "export_hub_model_id": to("push_to_hub"),
    "quantization_bit": cannot("an adapter is merged into whole weights"),
    "model_revision": cannot("the adapter names the revision"),
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
