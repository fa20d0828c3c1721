"""Merge adapters into their base model, and prove of the files written that they answer as the adapter did."""

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
from near.export.tied_embeddings import retie, untie, widen
from near.export.weight_files import count_weights, load_float32, settle_memory, write_weights
from near.models.hub import model_folder
from near.models.loading import load_base, load_tokenizer, with_adapter

log = logging.getLogger(__name__)

BUILT_IN = "model_name_or_path=builtin:SmolLM2-135M-Instruct"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass
class Merged:
    """A merged model, and what it was compared with: the last adapter's logits on `prompts`."""

    model: Any
    wanted: list[torch.Tensor]
    differences: list[LogitDifference]


def merge(cfg: DictConfig, output_dir: Path) -> None:
    """What merge.py does: the merged model, its tokenizer and model card in `export_dir`, whole or not at all.

    Raises UserError for what can't be merged, and where the merged model, or the one read back from its files, does not
    answer as the adapter did; OSError when the disk is full.
    """
    export_dir = Path(cfg.export_dir).expanduser().resolve()  # a link stays, and what it leads to is the export
    if cfg.push_to_hub is not None:
        check_push(cfg.push_to_hub, cfg.overwrite)
    adapters = adapters_of(cfg.adapter_name_or_path, cfg.allow_targets)
    base, revision = base_of(adapters, cfg.model_name_or_path)
    folder = model_folder("model_name_or_path", base, revision, cfg.cache_dir, BUILT_IN)
    refuse_quantised(base, folder)
    export = Export(cfg, base, revision, adapters)
    key = _key(cfg, base, revision, folder, adapters)
    check_outputs(output_dir, "merge")
    with locked(lock_file(cfg.cache_dir, f"export-{digest(str(export_dir))}"), remove=True):
        record = None if cfg.overwrite else _record(export_dir, key)
        if record is not None:
            done = f"{export_dir} is done already (merged {record['created']}); overwrite=true merges again"
        else:
            _check_place(export_dir, cfg, [Path(folder), *(adapter.path for adapter in adapters)])
            _check_room(export_dir, count_weights(folder) * BYTES[cfg.export_dtype])
            record = _export(cfg, export, folder, key)
            done = f"wrote {export_dir} ({export.summary()})"
    claim(output_dir, "merge")
    write_json(output_dir / "merge.json", {name: record[name] for name in record if name not in ("key", "sizes")})
    log.info(done)
    if cfg.push_to_hub is not None:
        log.info(f"pushed to {push(export_dir, cfg.push_to_hub, cfg.push_private)}")


def _key(cfg: DictConfig, base: str, revision: str | None, folder: str, adapters: list[Adapter]) -> str:
    """What decides an export's files."""
    options = {name: cfg[name] for name in ("export_dtype", "export_size", "export_legacy_format", "template")}
    files = sorted((p.name, p.stat().st_size) for p in Path(folder).iterdir() if p.is_file())
    made_of = [str(base), revision, files, file_digest(Path(folder) / "config.json")]
    return digest([options, *made_of, [folder_digest(adapter.path) for adapter in adapters]])


def _record(export_dir: Path, key: str) -> dict | None:
    """What an export in `export_dir` says of its merge, where that was the one of `key` and its files are whole."""
    record = read_list(export_dir).get("merged")
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    whole = all((export_dir / name).is_file() for name in record["sizes"])
    return record if whole and record["sizes"] == _sizes(export_dir, record["sizes"]) else None


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in names}


def _export(cfg: DictConfig, export: Export, folder: str, key: str) -> dict:
    """Merge, write aside, read back, compare, and only then put the folder into its place, with its record, which is
    returned: a merge that is killed afterwards is found done."""
    export_dir = Path(cfg.export_dir).expanduser().resolve()
    tokenizer = _tokenizer(cfg, export.adapters, folder)
    prompts, export.compared_on = prompts_of(export.adapters[-1].run, tokenizer)
    device = torch.accelerator.current_accelerator() if cfg.export_device == "auto" else None
    merged = _merged(cfg, export.adapters, folder, tokenizer, prompts, device or "cpu")
    export.merging = [found.told() for found in merged.differences]
    _stop_tokens(merged.model, tokenizer)
    with folder_aside(export_dir, replace=cfg.overwrite, remove=remove_model) as new:
        write_weights(merged.model.to(getattr(torch, cfg.export_dtype)), new, cfg.export_size, cfg.export_legacy_format)
        tokenizer.save_pretrained(new)
        wanted, merged = merged.wanted, None
        settle_memory()
        export.reading = _read_back(cfg, new, tokenizer, prompts, wanted, device or "cpu").told()
        settle_memory()
        export.quantised = _quantised(cfg, export, prompts, wanted)
        (new / "README.md").write_text(model_card(export), encoding="utf-8")
        record = {**export.told(), "export_dir": str(cfg.export_dir), **provenance(), "key": key}
        record["sizes"] = _sizes(new, (p.relative_to(new).as_posix() for p in new.rglob("*") if p.is_file()))
        list_files(new, merged=record)
        if not cfg.overwrite and export_dir.exists() and any(export_dir.iterdir()):
            raise UserError(f"export_dir={export_dir} was filled by another process meanwhile; name another folder")
    return record


def _check_place(export_dir: Path, cfg: DictConfig, sources: list[Path]) -> None:
    """UserError where `export_dir` holds something that is not to be replaced."""
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
    """UserError where the disk has no room for the export."""
    folder = next(part for part in export_dir.resolve().parents if part.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"export_dir={export_dir} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free there; free some or "
            "name another folder"
        )


def _tokenizer(cfg: DictConfig, adapters: list[Adapter], folder: str):
    """The tokenizer that the last adapter was trained with, with the template asked for or else its run's."""
    last, template = adapters[-1], cfg.template
    saved = (last.path / "tokenizer_config.json").is_file()  # with the run's template
    own = last.path if saved else folder
    if template is None and last.run is not None and not saved:
        template = last.run.config.model.template
    told = {"name_or_path": str(own), "trust_remote_code": cfg.trust_remote_code, "template": template}
    return load_tokenizer(OmegaConf.create(told), cfg.cache_dir, folder=str(own), template_key="template")


def _merged(cfg: DictConfig, adapters: list[Adapter], folder: str, tokenizer, prompts, device) -> Merged:
    """The base with one adapter after another merged into it, each compared with itself before."""
    model, wanted, differences = load_float32(folder, cfg.trust_remote_code, device), [], []
    settle_memory()
    for adapter in adapters:
        widen(model, adapter.path, len(tokenizer))
        adapted = with_adapter(model, adapter.path).eval()
        untie(adapted)
        wanted = logits_of(adapted, prompts)
        try:  # in place: the copy that safe_merge makes is to find numbers that are none, as the comparison does
            model = adapted.merge_and_unload()
        except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"{adapter.path} cannot be merged ({one_line(error)[:160]})") from error
        retie(model)
        differences.append(difference(wanted, logits_of(model, prompts)))
        _refuse(differences[-1].max, cfg.tolerance, "tolerance", f"with {adapter.path} merged, the model's logits")
        settle_memory()
    return Merged(model, wanted, differences)


def _refuse(found: float, bound: float, key: str, what: str) -> None:
    if not found <= bound:  # NaN, too
        raise UserError(
            f"{what} differ from the adapter's by {found:.2g}, more than {key}={bound}; nothing was exported"
        )


def _read_back(cfg: DictConfig, new: Path, tokenizer, prompts, wanted, device) -> LogitDifference:
    """The export as its files give it: the difference of its logits, in float32, from the adapter's."""
    told = {"name_or_path": str(new), "trust_remote_code": cfg.trust_remote_code, "template": None}
    again = load_tokenizer(OmegaConf.create(told), cfg.cache_dir, folder=str(new), template_key="template")
    texts = [tokenizer.decode(ids) for ids in prompts]
    cut = [one(texts, add_special_tokens=False)["input_ids"] for one in (tokenizer, again)]
    if again.chat_template != tokenizer.chat_template or cut[0] != cut[1]:
        raise UserError("the tokenizer read back from its files cuts text otherwise than before; nothing was exported")
    found = difference(wanted, logits_of(load_float32(new, cfg.trust_remote_code, device), prompts))
    if cfg.export_dtype == "float32":
        _refuse(found.max, cfg.tolerance, "tolerance", "the logits of the files written")
    else:
        what = f"rounded to {cfg.export_dtype} the logits (root mean square, as a share of their spread)"
        _refuse(found.share, cfg.rounding_tolerance, "rounding_tolerance", what)
    return found


def _stop_tokens(model, tokenizer) -> None:
    """A generation config that ends answers where a named template ends them, and that can be saved."""
    told = model.generation_config
    if told.do_sample is not True and any(getattr(told, name) not in (None, usual) for name, usual in SAMPLING.items()):
        told.do_sample = True  # what these say of a base's config; transformers saves none that contradicts itself
    named = template_of(tokenizer)
    end = tokenizer.get_vocab().get(ENDS.get(named.name)) if named is not None else None
    known = told.eos_token_id if isinstance(told.eos_token_id, list) else [told.eos_token_id]
    if end is not None and end not in known:
        told.eos_token_id = [end, *(token for token in known if token is not None)]


SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "typical_p": 1.0}


def _quantised(cfg: DictConfig, export: Export, prompts, wanted) -> dict | None:
    """How far the merged float32 model is from what was trained, where that was on a quantised base; None where not."""
    last = export.adapters[-1]
    if last.quantised is None:
        return None
    how = {"quantization": OmegaConf.to_container(last.quantised, resolve=True)}
    told = {"name_or_path": export.base, "revision": export.revision, "dtype": "float32"}
    told |= {"trust_remote_code": cfg.trust_remote_code, **how}
    try:
        model = with_adapter(load_base(OmegaConf.create(told), cfg.cache_dir), last.path).eval()
    except (UserError, ImportError) as error:
        log.warning(
            f"{last.path} was trained on a quantised base, which can't be loaded here ({one_line(error)[:120]})"
        )
        return how
    found = difference(logits_of(model, prompts), wanted)
    log.info(
        f"{last.path} was trained on a quantised base: merged into float32 weights its logits are another model's, by "
        f"{found.share:.1%} of their spread, {found.agree:.1%} of the likeliest tokens the same"
    )
    return how | found.told()
