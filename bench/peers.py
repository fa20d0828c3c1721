"""Gradient features by near and by the libraries that people would pick instead, for the same rows and model.

    python bench/peers.py [peers=bergson,dattri-llm,dataflex rows=48 side=4 tokens=0 threads=0 turns=2 device=auto
        env=FOLDER model=smollm2 dataflex_dims=256 out=FILE.json]

SmolLM2-135M with a LoRA adapter, float32, rows of the demo as near tokenises them; plain gradients (no Adam) of each
row's mean loss. Other options are overrides of train.py. Every library has a process of its own, with `threads`
threads (0: all cores), and computes `side` x `side` numbers a row for each of LoRA's linear layers:

- near: one sparse projection of the whole gradient to as many dimensions as all layers have together;
- bergson 2.5.1: its InMemoryCollector, each layer's gradient between two random matrices (its default);
- dattri-llm 0.1.0: its HookManager with `invasive_linear_io` hooks, "logra" (the same two matrices), materialized;
- DataFlex 1.1.0: its LESS selector, batches of one, one dense projection of the whole gradient in float16. Its cost
  is linear in the dimensions, and on a CPU too large for all of them: `dataflex_dims` dimensions are measured on 16
  rows (its buffer), once, and the projection's seconds (not the loop's) are multiplied (dataflex_dims=0: all).

All but DataFlex have batches of at most `tokens` tokens (0: 1,024 on a CPU, 16,384 elsewhere). Columns: seconds a row,
the fastest of `turns` after one that does not count, without imports and loading; the same relative to near; the root
mean square error of the cosines between rows, against unprojected gradients; peak memory of the process, or of the
device. `env` has a virtual environment for each peer, made when it is first needed, with the packages of INSTALLED and
near's own torch, transformers and peft: these libraries pin others (DataFlex torch <= 2.10), or want more (bergson
torchvision, torchaudio, bitsandbytes), which this use of them does not need. A peer that cannot be installed or
run is a row with the reason.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import json
import logging
import os
import shutil
import site
import subprocess
import tempfile
import venv
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bench import common
from bench.gpu import chosen, peak
from near.common.batches import batches
from near.common.errors import UserError, did_you_mean, one_line
from near.common.files import write_json
from near.models.tokens import IGNORED, Collator

INSTALLED = {  # without their dependencies; the rest is near's
    "bergson": ["bergson==2.5.1", "jaxtyping", "wadler-lindig", "simple-parsing", "docstring-parser", "petname",
                "ml-dtypes", "natsort"],
    "dattri-llm": ["dattri-llm==0.1.0", "dattri==0.3.0"],
    "dataflex": ["dataflex==1.1.0", "traker==0.3.2"],
}  # fmt: skip
BUFFER = 16  # rows that DataFlex projects together


def environment(name: str, folder: Path) -> str:
    """The Python of a virtual environment with a peer's packages and, behind them, near's. UserError if pip fails."""
    folder, listed = folder.resolve() / name, "\n".join(INSTALLED[name])
    python, done = folder / "bin" / "python", folder / "installed.txt"
    if done.exists() and done.read_text() == listed:
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "near.pth").write_text("\n".join(site.getsitepackages()))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    run = subprocess.run([*command, *INSTALLED[name]], capture_output=True, text=True)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")] or run.stderr.splitlines()
        raise UserError(f"pip: {lines[-1] if lines else 'no reason given'}")
    done.write_text(listed)
    return str(python)


def prepared(folder: str, count: int, words: list[str]) -> dict:
    """Write rows.json and a LoRA adapter to `folder`; the numbers of its layers and weights, and of tokens a row."""
    from bench.gradients import drawn, loaded
    from near.models.weights import trained

    logging.disable(logging.WARNING)
    adapted, _, pool, _ = loaded([*words, "model.dtype=float32"], 16)
    rows = [{name: list(row[name]) for name in ("input_ids", "labels")} for row in drawn(pool, count, seed=0)]
    adapted.save_pretrained(f"{folder}/adapter")
    write_json(Path(folder, "rows.json"), rows)
    sizes, lengths = [weight.numel() for weight in trained(adapted).values()], [len(row["input_ids"]) for row in rows]
    return {"layers": len(sizes), "weights": sum(sizes), "tokens": sum(lengths) / len(rows), "longest": max(lengths)}


# The functions below run in each library's own process.


@dataclass
class Job:
    """What a library has to do."""

    folder: str  # with rows.json and adapter/
    device: str
    tokens: int  # of a batch
    side: int  # a layer has side x side dimensions
    dim: int  # of all layers together
    dims: int  # that are measured
    count: int  # of rows that are measured
    projecting: float = 0.0  # seconds of a projection to `dims` of the `dim` dimensions

    @property
    def rows(self) -> list[dict]:
        return json.loads(Path(self.folder, "rows.json").read_text())[: self.count]

    def model(self):
        """The base model with the adapter, whose weights are trained."""
        from peft import PeftConfig, PeftModel
        from transformers import AutoModelForCausalLM

        adapter = f"{self.folder}/adapter"
        base = PeftConfig.from_pretrained(adapter).base_model_name_or_path
        base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return PeftModel.from_pretrained(base, adapter, is_trainable=True).to(self.device).eval()

    def batches(self) -> tuple[list[dict[str, torch.Tensor]], np.ndarray]:
        """Padded batches on the device, and where each of their rows stands in `rows`."""
        rows = self.rows
        parts = batches([len(row["input_ids"]) for row in rows], 64, self.tokens)
        collated = [Collator(0)([rows[i] for i in part]) for part in parts]
        return [{k: v.to(self.device) for k, v in batch.items()} for batch in collated], np.concatenate(parts)


Features = Callable[[], torch.Tensor]  # float32 (rows, dim), in the order of the rows


def near(job: Job, projected: bool = True) -> Features:
    from near.selection.scoring.gradients import PerExample, Projection

    model, (inputs, order), projection = job.model(), job.batches(), Projection(job.dim if projected else None)

    def features() -> torch.Tensor:
        with PerExample(model, projection) as per_example:
            return torch.cat([per_example(batch).cpu() for batch in inputs])[np.argsort(order)]

    return features


def bergson(job: Job) -> Features:
    from bergson import IndexConfig, InMemoryCollector
    from bergson.collector.collector import CollectorComputer
    from bergson.data import allocate_batches
    from bergson.utils.worker_utils import create_processor, setup_model_and_peft
    from datasets import Dataset

    cfg = IndexConfig(run_path=f"{job.folder}/bergson", model=f"{job.folder}/adapter", precision="fp32",
                      projection_dim=job.side, token_batch_size=job.tokens, loss_reduction="mean")  # fmt: skip
    cfg.partial_run_path.mkdir(parents=True)
    model, layers = setup_model_and_peft(cfg)
    processor = create_processor(model, cfg, layers)
    data = Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in job.rows])
    shared = {"data": data, "cfg": cfg}
    parts = allocate_batches(data["length"][:], job.tokens)

    def features() -> torch.Tensor:
        collector = InMemoryCollector(model=model.base_model, processor=processor, target_modules=layers, **shared)
        CollectorComputer(model=model, collector=collector, batches=parts, **shared).run_with_collector_hooks()
        return torch.cat([part.flatten(1) for part in collector.gradients.values()], dim=1).float()

    return features


def dattri_llm(job: Job) -> Features:
    from dattri_llm import REGISTER_ALL, HookManager, HookManagerConfig
    from dattri_llm.gradient.callbacks import CaptureCallback

    model, (inputs, order), captured = job.model(), job.batches(), CaptureCallback()
    two_sided = {"style": "logra", "proj_dim": job.side, "proj_type": "rademacher", "proj_max_batch_size": 8}
    config = HookManagerConfig(invasive_linear_io=REGISTER_ALL, capture_style="materialized",
                               projection_kwargs={"__default__": two_sided})  # fmt: skip
    hooks = HookManager(model, config=config, callbacks=[captured])

    def features() -> torch.Tensor:
        parts = []
        with hooks.collect():
            for batch in inputs:
                labels = batch["labels"][:, 1:]
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
                losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
                (losses.sum(1) / (labels != IGNORED).sum(1)).sum().backward()
                layers = captured.record.gradient.data
                parts.append(torch.cat([layers[name].flatten(1) for name in sorted(layers)], dim=1).cpu())
        return torch.cat(parts)[np.argsort(order)]

    return features


def dataflex(job: Job) -> Features:
    from accelerate import Accelerator
    from dataflex.train.selector.less_selector import LessSelector
    from trak.projectors import BasicProjector

    model, rows, project = job.model(), job.rows, BasicProjector.project
    accelerator, cache = Accelerator(cpu=job.device == "cpu"), f"{job.folder}/dataflex"
    selector = LessSelector(rows, rows, accelerator, Collator(0), cache, "sgd", job.dims)

    def timed(*args, **kwargs):
        seconds, out = common.timed(lambda: project(*args, **kwargs))
        job.projecting += seconds
        return out

    BasicProjector.project = timed

    def features() -> torch.Tensor:
        job.projecting = 0.0
        with tempfile.TemporaryDirectory() as folder:
            selector._collect_and_save_projected_gradients(model, folder, rows, "sgd")
            selector._merge_and_normalize_info(folder, len(rows))
            return torch.load(f"{folder}/all_projected_grads.pt", weights_only=True)

    return features


LIBRARIES = {"near": near, "bergson": bergson, "dattri-llm": dattri_llm, "dataflex": dataflex}


def measured(name: str, described: dict, threads: int, turns: int) -> dict:
    """One library's seconds a row, peak memory and error. near's process also writes the exact cosines."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    job = Job(**described)
    features, taken = LIBRARIES[name](job), []
    for _ in range(1 if name == "dataflex" else turns + 1):
        seconds, out = common.timed(features)  # ends with a copy from the device
        taken.append(seconds - job.projecting + job.projecting * job.dim / job.dims)
    most, path, size = peak(job.device), Path(job.folder, "cosines.npy"), len(out)
    if name == "near":
        np.save(path, cosines(near(job, projected=False)()))
    errors = (cosines(out) - np.load(path)[:size, :size])[np.triu_indices(size, 1)]
    version = "here" if name == "near" else common.version(name)
    seconds, error = min(taken[1:] or taken) / size, float(np.sqrt(np.mean(errors**2)))
    return {"version": version, "rows": size, "dims": out.shape[1], "seconds": seconds, "peak_gb": most, "error": error}


def cosines(features: torch.Tensor) -> np.ndarray:
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    return (unit @ unit.T).numpy()


def main(
    *overrides: str,
    peers: list[str] = tuple(INSTALLED),
    rows: int = 48,
    side: int = 4,
    tokens: int = 0,
    threads: int = 0,
    turns: int = 2,
    device: str = "auto",
    env: str = "",
    model: str = "smollm2",
    dataflex_dims: int = 256,
    out: str = "",
) -> None:
    for name in peers:
        if name not in INSTALLED:
            raise UserError(f"peers={name}: no such peer{did_you_mean(name, list(INSTALLED))}")
    for name, value, least in (("rows", rows, 2), ("side", side, 1), ("turns", turns, 1)):
        if value < least:
            raise UserError(f"{name}={value}: use {least} or more")
    on, threads = chosen(device), threads or common.cores()
    where, result = Path(env or Path(os.environ["NEAR_CACHE"], "peers")), {}
    with tempfile.TemporaryDirectory() as folder:
        made = common.apart(prepared, folder, rows, [f"model={model}", *overrides])
        dim, budget = side * side * made["layers"], tokens or (1024 if on == "cpu" else 16_384)
        print(f"on {on}, {threads} threads; {rows} rows of {made['tokens']:.0f} tokens, {made['weights'] / 1e6:.2f}M "
              f"weights in {made['layers']} layers, {dim:,} dimensions")  # fmt: skip
        print(
            f"{'':12}{'version':>9}{'rows':>6}{'dims':>7}{'s a row':>9}{'of near':>9}{'error':>8}{'GB':>7}", flush=True
        )
        for name in ("near", *peers):
            dims, count = (dataflex_dims or dim, BUFFER) if name == "dataflex" else (dim, rows)
            job = Job(folder, on, max(budget, made["longest"]), side, dim, min(dims, dim), min(count, rows))
            try:
                python = sys.executable if name == "near" else environment(name, where)
                arguments = (name, vars(job), threads, turns)
                part = common.apart(measured, *arguments, env={"OMP_NUM_THREADS": str(threads)}, python=python)
            except UserError as error:
                if name == "near":
                    raise
                result[name] = {"reason": one_line(error)}
                common.not_measured(name, error)
                continue
            result[name] = part
            part["relative"] = part["seconds"] / result["near"]["seconds"]
            print(f"{name:12}{part['version']:>9}{part['rows']:6}{part['dims']:7,}{part['seconds']:9.3f}"
                  f"{part['relative']:9.2f}{part['error']:8.4f}{part['peak_gb']:7.2f}", flush=True)  # fmt: skip
    if out:
        write_json(Path(out), {**result, "dim": dim, "device": on, "threads": threads, "head": common.head()})
        print(f"wrote {out}")


if __name__ == "__main__":
    common.script(main, prepared, measured)
