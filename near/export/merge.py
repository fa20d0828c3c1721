"""Merge adapters into their base model, and check that the written files answer as the adapter did."""

import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from near.common.errors import UserError, one_line
from near.common.files import digest, file_digest, folder_aside, folder_digest, provenance, write_json
from near.common.locks import lock_file, locked
from near.common.outputs import check as check_outputs
from near.common.outputs import check_model, claim, is_model, list_files, read_list, remove_model
from near.data.templates.named import ENDS, template_of
from near.export.likeness import LogitDifference, difference, logits_of, prompts_of
from near.export.lineage import Adapter, adapters_of, base_of, refuse_quantised
from near.export.model_card import Export, model_card
from near.export.push import check_push, push
from near.export.weight_files import count_weights, load_float32, settle_memory, write_weights
from near.models.hub import model_folder
from near.models.loading import load_base, load_tokenizer, merge_adapter, with_adapter
from near.models.tied_embeddings import untie, widen

log = logging.getLogger(__name__)

BUILT_IN = "model_name_or_path=builtin:SmolLM2-135M-Instruct"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass
class Merged:
    """A merged model, the last adapter's logits, and each adapter's difference before and after its merge."""

    model: Any
    expected: list[torch.Tensor]
    differences: list[LogitDifference]


def merge(cfg: DictConfig, output_dir: Path) -> None:
    """What merge.py does: write merged model, tokenizer and model card to `export_dir`, completely or not at all.

    Args:
        cfg: the configuration of merge.py.
        output_dir: where merge.json goes.

    Raises:
        UserError: something can't be merged, or the merged model, in memory or read back from its files, does not
            answer as the adapter did.
        OSError: the disk is full.
    """
    cache_dir = cfg.cache_dir
    export_dir = Path(cfg.export_dir).expanduser().resolve()  # a link stays a link, and its target is the export
    if cfg.push_to_hub is not None:
        check_push(cfg.push_to_hub, cfg.overwrite)
    adapters = adapters_of(cfg.adapter_name_or_path, cfg.allow_targets)
    base, revision = base_of(adapters, cfg.model_name_or_path)
    folder = model_folder("model_name_or_path", base, revision, cache_dir, BUILT_IN)
    refuse_quantised(base, folder)
    export = Export(cfg, base, revision, adapters)
    key = _key(cfg, base, revision, folder, adapters)
    check_outputs(output_dir, "merge")
    with locked(lock_file(cache_dir, f"export-{digest(str(export_dir))}"), remove=True):
        record = None if cfg.overwrite else _record(export_dir, key)
        if record is not None:
            done = f"{export_dir} is done already (merged {record['created']}); overwrite=true merges again"
        else:
            _check_place(export_dir, cfg, [Path(folder), *(adapter.path for adapter in adapters)])
            _check_room(export_dir, count_weights(folder) * BYTES[cfg.export_dtype])
            record = _export(cfg, cache_dir, export, folder, key)
            done = f"wrote {export_dir} ({export.summary()})"
    claim(output_dir, "merge")
    write_json(output_dir / "merge.json", {name: record[name] for name in record if name not in ("key", "sizes")})
    log.info(done)
    if cfg.push_to_hub is not None:
        log.info(f"pushed to {push(export_dir, cfg.push_to_hub, cfg.push_private)}")


def _key(cfg: DictConfig, base: str, revision: str | None, folder: str, adapters: list[Adapter]) -> str:
    """The key of an export: all that decides its files."""
    options = {name: cfg[name] for name in ("export_dtype", "export_size", "export_legacy_format", "template")}
    files = sorted((p.name, p.stat().st_size) for p in Path(folder).iterdir() if p.is_file())
    base_parts = [str(base), revision, files, file_digest(Path(folder) / "config.json")]
    return digest([options, *base_parts, [folder_digest(adapter.path) for adapter in adapters]])


def _record(export_dir: Path, key: str) -> dict | None:
    """The record of the export in `export_dir` if it has this key and its files are complete, else None."""
    record = read_list(export_dir).get("merged")
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    whole = all((export_dir / name).is_file() for name in record["sizes"])
    return record if whole and record["sizes"] == _sizes(export_dir, record["sizes"]) else None


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in names}


def _export(cfg: DictConfig, cache_dir: str, export: Export, folder: str, key: str) -> dict:
    """Merge, write to a temporary folder, read back and compare; then rename it to `export_dir`. Returns the record,
    which is in that folder too: if the process is killed after the rename, the next merge finds the export done."""
    export_dir = Path(cfg.export_dir).expanduser().resolve()
    tokenizer = _tokenizer(cfg, cache_dir, export.adapters, folder)
    prompts, export.compared_on = prompts_of(export.adapters[-1].run, tokenizer)
    device = torch.accelerator.current_accelerator() if cfg.export_device == "auto" else None
    merged = _merged(cfg, export.adapters, folder, tokenizer, prompts, device or "cpu")
    export.merging = [measured.metrics() for measured in merged.differences]
    _stop_tokens(merged.model, tokenizer)
    with folder_aside(export_dir, replace=cfg.overwrite, remove=remove_model) as new:
        write_weights(merged.model.to(getattr(torch, cfg.export_dtype)), new, cfg.export_size, cfg.export_legacy_format)
        tokenizer.save_pretrained(new)
        expected, merged = merged.expected, None
        settle_memory()
        export.reading = _read_back(cfg, cache_dir, new, tokenizer, prompts, expected, device or "cpu").metrics()
        settle_memory()
        export.quantised = _quantised(cfg, cache_dir, export, prompts, expected)
        (new / "README.md").write_text(model_card(export), encoding="utf-8")
        record = {**export.metrics(), "export_dir": str(cfg.export_dir), **provenance(), "key": key}
        record["sizes"] = _sizes(new, (p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file()))
        list_files(new, merged=record)
        if not cfg.overwrite and export_dir.exists() and any(export_dir.iterdir()):
            raise UserError(f"export_dir={export_dir} was filled by another process meanwhile; name another folder")
    return record


def _check_place(export_dir: Path, cfg: DictConfig, sources: list[Path]) -> None:
    """UserError if `export_dir` has files that must not be replaced."""
    if not export_dir.exists() or export_dir.is_dir() and not any(export_dir.iterdir()):
        return
    if not export_dir.is_dir() or not cfg.overwrite:
        more = ", empty it, or set overwrite=true" if is_model(export_dir) else " or empty it"
        raise UserError(f"export_dir={export_dir} is not empty; name another folder{more}")
    check_model(export_dir)
    for source in [*sources, Path.cwd()]:
        if source.resolve().is_relative_to(export_dir.resolve()):
            raise UserError(f"export_dir={export_dir} holds {source}, which is merged; name another folder")


def _check_room(export_dir: Path, needed: int) -> None:
    """UserError if the disk has no room for an export of `needed` bytes."""
    folder = next(part for part in export_dir.resolve().parents if part.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"export_dir={export_dir} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free; free some space "
            "or name another folder"
        )


def _tokenizer(cfg: DictConfig, cache_dir: str, adapters: list[Adapter], folder: str):
    """The tokenizer that the last adapter was trained with, with cfg.template, or else its run's template."""
    last, template = adapters[-1], cfg.template
    saved = (last.path / "tokenizer_config.json").is_file()  # with the run's template
    source = last.path if saved else folder
    if template is None and last.run is not None and not saved:
        template = last.run.config.model.template
    options = {"name_or_path": str(source), "trust_remote_code": cfg.trust_remote_code, "template": template}
    return load_tokenizer(OmegaConf.create(options), cache_dir, folder=str(source), template_key="template")


def _merged(cfg: DictConfig, adapters: list[Adapter], folder: str, tokenizer, prompts, device) -> Merged:
    """The base with one adapter after another merged into it; logits are compared before and after each merge."""
    model, expected, differences = load_float32(folder, cfg.trust_remote_code, device), [], []
    settle_memory()
    for adapter in adapters:
        widen(model, adapter.path, len(tokenizer))
        adapted = with_adapter(model, adapter.path).eval()
        untie(adapted)
        expected = logits_of(adapted, prompts)
        model = merge_adapter(adapted, adapter.path)
        differences.append(difference(expected, logits_of(model, prompts)))
        _refuse(differences[-1].max, cfg.tolerance, "tolerance", f"with {adapter.path} merged, the model's logits")
        settle_memory()
    return Merged(model, expected, differences)


def _refuse(value: float, bound: float, key: str, subject: str) -> None:
    """UserError if a difference is above the bound that option `key` sets."""
    if not value <= bound:  # NaN, too
        raise UserError(
            f"{subject} differ from the adapter's by {value:.2g}, more than {key}={bound}; nothing was exported"
        )


def _read_back(cfg: DictConfig, cache_dir: str, new: Path, tokenizer, prompts, expected, device) -> LogitDifference:
    """Load the written files in float32, and compare their logits with the adapter's.

    Raises:
        UserError: the tokenizer or the logits changed.
    """
    options = {"name_or_path": str(new), "trust_remote_code": cfg.trust_remote_code, "template": None}
    again = load_tokenizer(OmegaConf.create(options), cache_dir, folder=str(new), template_key="template")
    texts = [tokenizer.decode(ids) for ids in prompts]
    ids = [tokens_of(texts, add_special_tokens=False)["input_ids"] for tokens_of in (tokenizer, again)]
    if again.chat_template != tokenizer.chat_template or ids[0] != ids[1]:
        raise UserError("the tokenizer read back from its files tokenises differently; nothing was exported")
    measured = difference(expected, logits_of(load_float32(new, cfg.trust_remote_code, device), prompts))
    if cfg.export_dtype == "float32":
        _refuse(measured.max, cfg.tolerance, "tolerance", "the logits of the files written")
    else:
        subject = f"rounded to {cfg.export_dtype} the logits (root mean square, as a share of their spread)"
        _refuse(measured.share, cfg.rounding_tolerance, "rounding_tolerance", subject)
    return measured


def _stop_tokens(model, tokenizer) -> None:
    """Make the generation config end answers where a named template does, and make it valid, so that it is saved."""
    config = model.generation_config
    if config.do_sample is not True and any(
        getattr(config, name) not in (None, usual) for name, usual in SAMPLING.items()
    ):
        config.do_sample = True  # as these options imply; transformers refuses to save a contradiction
    template = template_of(tokenizer)
    end = tokenizer.get_vocab().get(ENDS.get(template.name)) if template is not None else None
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if end is not None and end not in ends:
        config.eos_token_id = [end, *(token for token in ends if token is not None)]


SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "typical_p": 1.0}


def _quantised(cfg: DictConfig, cache_dir: str, export: Export, prompts, expected) -> dict | None:
    """How far the merged float32 model is from the adapter on its quantised base; None without a quantised base."""
    last = export.adapters[-1]
    if last.quantised is None:
        return None
    result = {"quantization": OmegaConf.to_container(last.quantised, resolve=True)}
    options = {"name_or_path": export.base, "revision": export.revision, "dtype": "float32"}
    options |= {"trust_remote_code": cfg.trust_remote_code, **result}
    try:
        model = with_adapter(load_base(OmegaConf.create(options), cache_dir), last.path).eval()
    except (UserError, ImportError) as error:
        log.warning(
            f"{last.path} was trained on a quantised base, which can't be loaded here ({one_line(error)[:120]})"
        )
        return result
    measured = difference(logits_of(model, prompts), expected)
    log.info(
        f"{last.path} was trained on a quantised base: merged into float32 weights its logits are another model's, by "
        f"{measured.share:.1%} of their spread; {measured.agree:.1%} of the likeliest tokens are the same"
    )
    return result | measured.metrics()
