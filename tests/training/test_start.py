"""Training that goes on from an adapter: model.adapter, trained further or merged beneath a new one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file

from near.common.errors import UserError
from near.common.run_folder import RunFolder
from near.export.lineage import adapters_of
from near.models.fingerprint import of_model
from near.models.loading import add_finetuning, base_folder, load_base, load_start, with_adapter
from near.models.start import adapter_digest, adapter_folder
from near.selection.needs import needs_of
from near.selection.plan.choice import selection_of
from near.selection.select import select
from near.training.inputs import load_rows
from near.training.train import train
from tests.conftest import configured, evaluate, report
from tests.merging import IDS, logits, merged, tiny_base, write_adapter

pytestmark = pytest.mark.model

# eight steps of two rows in their order; plain SGD, which has no state, at a constant rate
STATELESS = [
    *("trainer=static", "trainer.args.max_steps=8", "data.candidates.limit=16"),
    *("+trainer.args.optim=sgd", "trainer.args.lr_scheduler_type=constant", "trainer.args.warmup_steps=0"),
    *("trainer.args.learning_rate=0.5", "+trainer.args.train_sampling_strategy=sequential"),
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two adapters are equal to the bit."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture()
def quick(tiny) -> list[str]:
    """A run without answers and with few steps."""
    left = [word for word in tiny if not word.startswith(("trainer.warmup_step", "trainer.update"))]
    return [*left, "evaluation.answers=false", "trainer.args.learning_rate=0.02"]


@pytest.fixture()
def rounds(quick) -> list[str]:
    words = ("trainer.warmup_step=1", "trainer.update_step=1", "trainer.update_times=1")
    return [*quick, "selector=random", *words]


@pytest.fixture()
def trained(rounds, tmp_path) -> Path:
    """A run that trained an adapter."""
    train(configured("train", *rounds), tmp_path / "one")
    return tmp_path / "one"


def test_eight_and_eight_steps_are_sixteen_where_the_optimizer_has_no_state(quick, tmp_path):
    words = [*quick, *STATELESS]
    train(configured("train", *words), tmp_path / "first")
    train(configured("train", *words, f"model.adapter={tmp_path}/first"), tmp_path / "second")
    train(configured("train", *words, "trainer.args.max_steps=16"), tmp_path / "whole")
    assert same(tmp_path / "second" / "adapter", tmp_path / "whole" / "adapter")
    assert not same(tmp_path / "second" / "adapter", tmp_path / "first" / "adapter")
    first, second = (RunFolder(tmp_path / name).metrics for name in ("first", "second"))
    assert second.base.target_loss == first.target_loss  # what it began with, to the bit
    assert first.base.target_loss != first.target_loss
    assert second.start == f"{tmp_path}/first" and first.start is None


def test_with_the_optimizers_state_resume_continues_to_the_bit(rounds, tmp_path):
    """The adapter alone has another optimizer: its steps differ."""
    words = [*rounds, "trainer.update_times=3", "trainer.args.save_steps=2"]
    train(configured("train", *words), tmp_path / "whole")
    half = tmp_path / "whole" / "checkpoints" / "checkpoint-2"
    train(configured("train", *words, f"resume={half}"), tmp_path / "resumed")
    assert same(tmp_path / "whole" / "adapter", tmp_path / "resumed" / "adapter")
    train(configured("train", *words, "trainer.update_times=1", f"model.adapter={half}"), tmp_path / "further")
    assert not same(tmp_path / "whole" / "adapter", tmp_path / "further" / "adapter")


def test_a_new_adapter_on_a_merged_one_is_one_on_the_export(rounds, trained, cache, tmp_path):
    """Training on the adapter merged in memory and on merge.py's files give the same bits; the exports answer alike."""
    export = tmp_path / "export"
    merged(trained / "adapter", cache, export)
    words = [*rounds, "seed=7"]
    train(configured("train", *words, f"model.name_or_path={export}"), tmp_path / "on_export")
    stacked = tmp_path / "stacked"
    loss = train(configured("train", *words, f"model.adapter={trained}", "model.adapter_mode=stack"), stacked)
    assert same(tmp_path / "on_export" / "adapter", stacked / "adapter")
    assert RunFolder(stacked).metrics.base.target_loss == RunFolder(tmp_path / "on_export").metrics.base.target_loss
    assert "on its base model with another adapter" in (stacked / "adapter" / "README.md").read_text()

    alone = logits(merged(stacked / "adapter", cache, tmp_path / "a" / "out"))
    paths = [f"{trained}/adapter", f"{stacked}/adapter"]
    assert [str(one.path) for one in adapters_of(paths)] == [str(one.path) for one in adapters_of(paths[1])] == paths
    twice = logits(merged(tmp_path / "on_export" / "adapter", cache, tmp_path / "c" / "out"))
    cfg = configured("train", *words, f"model.adapter={trained}", "model.adapter_mode=stack")
    in_memory = logits(with_adapter(load_base(cfg.model, str(cache)), stacked / "adapter").eval())
    assert torch.equal(alone, twice)
    assert torch.allclose(alone, in_memory, atol=1e-5)
    plain = logits(tiny_base(cache))
    assert (alone - plain).abs().max() > 1e-3
    record = json.loads((tmp_path / "a" / "merge.json").read_text())
    assert record["adapters"] == [f"{trained}/adapter", f"{stacked}/adapter"]
    card = (tmp_path / "a" / "out" / "README.md").read_text()
    assert "fine-tuning of `one`, then `stacked` merged" in card and "before training: base model with one" in card

    shutil.move(trained, tmp_path / "moved")  # the run has a copy
    first, second = adapters_of(paths[1])
    assert (first.path, second.path) == (stacked / "start", stacked / "adapter")
    evaluate(configured("eval", f"run={stacked}", f"cache_dir={cache}", "evaluation.answers=false"), tmp_path / "again")
    again = RunFolder(tmp_path / "again").metrics
    assert again.target_loss == pytest.approx(loss, abs=1e-6)
    assert again.base.target_loss == RunFolder(stacked).metrics.base.target_loss
    with pytest.raises(UserError, match="was trained on top of another adapter, which is not merged into this model"):
        with_adapter(tiny_base(cache), stacked / "adapter")
    for more in ((), ("model.adapter_mode=stack",)):
        with pytest.raises(UserError, match=r"training goes on from one adapter; merge both first: python merge.py"):
            train(configured("train", *rounds, f"model.adapter={stacked}", *more), tmp_path / "third")


def test_an_adapter_beneath_two_others_is_not_merged_twice(tmp_path):
    def write(folder: Path, content: str) -> None:
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_text(content)

    first = tmp_path / "first"
    write(first, "first")
    for name in ("one", "two"):
        write(tmp_path / name / "adapter", name)
        write(tmp_path / name / "start", "first")
        record = {"adapter": str(first), "mode": "stack", "digest": adapter_digest(first)}
        (tmp_path / name / "start" / "start.json").write_text(json.dumps(record))
    one, two = (str(tmp_path / name / "adapter") for name in ("one", "two"))
    assert [str(adapter.path) for adapter in adapters_of(one)] == [str(first), one]
    with pytest.raises(UserError, match="two/adapter was trained on top of .*first, which is merged already"):
        adapters_of([one, two])


def test_an_adapter_trained_further_is_one_adapter_on_the_base(rounds, trained, cache, tmp_path, capsys):
    further = tmp_path / "further"
    words = [*rounds, "seed=7", f"model.adapter={trained}"]
    train(configured("train", *words), further)
    cfg = configured("train", *words)
    assert torch.equal(
        logits(load_start(cfg.model, str(cache)).eval()), logits(with_adapter(tiny_base(cache), trained / "adapter"))
    )
    model = merged(further / "adapter", cache, tmp_path / "out")
    expected = logits(with_adapter(tiny_base(cache), further / "adapter").eval())
    assert torch.allclose(logits(model), expected, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(part in card for part in ("## Training of one", "## Training of further", "Further training of adapter"))
    assert json.loads((tmp_path / "merge.json").read_text())["further_training_of"] == [[f"{trained}/adapter"]]
    # the report shows what it began with
    report(configured("report", f"runs={tmp_path}"), tmp_path / "report")
    out = capsys.readouterr().out
    assert "the adapter that training went on from" in out, out[-3000:]
    assert {line.split()[0] for line in out.splitlines() if line.startswith((" base ", " start "))} == {"base", "start"}
    # another adapter at the same place is another run; the copy is the same one
    shutil.copytree(trained, tmp_path / "kept")
    shutil.rmtree(trained / "adapter")
    with pytest.raises(UserError, match=f"model.adapter={trained} has no adapter_config.json"):
        train(configured("train", *words), further)
    train(configured("train", *rounds, "seed=7", f"model.adapter={further}/start"), further)  # done already
    write_adapter(trained / "adapter", tiny_base(cache), lora_alpha=16)
    with pytest.raises(UserError, match="another configuration.*model.adapter"):
        train(configured("train", *words), further)


def test_it_resumes_to_the_bit_while_its_start_is_the_same(rounds, trained, cache, tmp_path):
    words = [*rounds, f"model.adapter={trained}", "trainer.args.save_steps=1", "trainer.args.save_total_limit=null"]
    train(configured("train", *words), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("adapter", "checkpoints/checkpoint-2"):
        shutil.rmtree(tmp_path / "cut" / name)
    for name in ("metrics.json", "train_metrics.json"):
        (tmp_path / "cut" / name).unlink()
    shutil.copytree(trained, tmp_path / "kept")
    write_adapter(trained / "adapter", tiny_base(cache), lora_alpha=16)
    with pytest.raises(UserError, match="belongs to another run: .*model.adapter"):
        train(configured("train", *words), tmp_path / "cut")
    shutil.rmtree(trained)
    own = [word for word in words if not word.startswith("model.adapter")]
    train(configured("train", *own, f"model.adapter={tmp_path}/cut/start"), tmp_path / "cut")
    assert same(tmp_path / "whole" / "adapter", tmp_path / "cut" / "adapter")


KINDS = {
    "dora": ["finetuning=dora", "finetuning.r=4"],
    "rslora": ["+finetuning.use_rslora=true"],
    "whole embeddings": ["+finetuning.modules_to_save=[embed_tokens]"],
    "embeddings": ["finetuning.target_modules=[embed_tokens,q_proj]"],
}


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_other_kinds_of_lora_start_where_they_ended(words, rounds, cache, tmp_path):
    """DoRA's magnitudes, rank-stabilised scaling, and embeddings that the tiny model ties to its output."""
    words = [*rounds, *words]
    train(configured("train", *words), tmp_path / "one")
    expected = logits(with_adapter(tiny_base(cache), tmp_path / "one" / "adapter").eval())
    cfg = configured("train", *words, f"model.adapter={tmp_path}/one")
    model = load_start(cfg.model, str(cache), finetuning=cfg.finetuning).eval()
    assert torch.equal(logits(model), expected)
    stacked = load_start(
        configured("train", *words, f"model.adapter={tmp_path}/one", "model.adapter_mode=stack").model, str(cache)
    )
    assert torch.allclose(logits(stacked.eval()), expected, atol=1e-5)
    assert not hasattr(stacked, "peft_config") and (expected - logits(tiny_base(cache))).abs().max() > 1e-4
    train(cfg, tmp_path / "two")
    a, b = weights(tmp_path / "one" / "adapter"), weights(tmp_path / "two" / "adapter")
    assert a.keys() == b.keys() and not all(torch.equal(a[name], b[name]) for name in a)


def test_all_weights_are_trained_on_a_merged_adapter(rounds, trained, cache, tmp_path):
    words = [*(word for word in rounds if word != "finetuning.r=4"), "finetuning=full", f"model.adapter={trained}"]
    with pytest.raises(UserError, match="finetuning=full has no adapter to train further; model.adapter_mode=stack"):
        train(configured("train", *words), tmp_path / "full")
    words += ["model.adapter_mode=stack", "trainer.args.learning_rate=0"]
    loss = train(configured("train", *words), tmp_path / "full")
    metrics = RunFolder(tmp_path / "full").metrics
    assert loss == metrics.base.target_loss == pytest.approx(RunFolder(trained).metrics.target_loss, abs=1e-5)
    evaluate(
        configured("eval", f"run={tmp_path}/full", f"cache_dir={cache}", "evaluation.answers=false"), tmp_path / "e"
    )
    again = RunFolder(tmp_path / "e").metrics
    assert (again.target_loss, again.base.target_loss) == (loss, metrics.base.target_loss)
    mixed = [word for word in words if not word.startswith("selector=")] + ["trainer=dynamic_mix", "mixer=doremi"]
    with pytest.raises(UserError, match="mixer.reference=null is the model before training"):
        train(configured("train", *mixed), tmp_path / "mixed")


def test_pissa_begins_on_a_merged_adapter_alone(rounds, trained, tmp_path):
    words = [*rounds, f"model.adapter={trained}", "+finetuning.init_lora_weights=pissa"]
    with pytest.raises(UserError, match="init_lora_weights=pissa is how a new adapter begins"):
        train(configured("train", *words), tmp_path / "two")
    train(configured("train", *words, "model.adapter_mode=stack"), tmp_path / "two")
    further = [*rounds, "finetuning.r=8", "finetuning.lora_alpha=32", "model.adapter_mode=stack"]
    with pytest.raises(UserError, match="was trained on top of"):
        train(configured("train", *further, f"model.adapter={tmp_path}/two"), tmp_path / "three")


def changed(folder: Path, **values) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


FAULTS = {  # changes of the adapter's configuration or files, options, and the line
    "rank": (
        {"r": 8},
        [],
        r"is another LoRA than finetuning describes; type finetuning.r=8 .*alpha=8, or: model.adapter_mode=stack",
    ),
    "kind": ({"use_dora": True}, [], r"type .*\+finetuning.use_dora=true"),
    "pattern": ({"rank_pattern": {"q_proj": 2}}, [], r'type .*"\+finetuning.rank_pattern=\{q_proj:2\}"'),
    "type": ({"peft_type": "IA3"}, [], "is of type IA3, and finetuning trains LoRA; model.adapter_mode=stack"),
    "layers": (
        {},
        ["finetuning.lora_alpha=8", "finetuning.target_modules=[q_proj]"],
        r"adapts other layers than .*\(\d+ layers differ, first .*\); type finetuning.target_modules=all-linear, or",
    ),
    "base": (
        {"base_model_name_or_path": "other/model"},
        [],
        "was trained on other/model, not on model.name_or_path=builtin:tiny; set model.name_or_path=other/model",
    ),
    "revision": ({"revision": "abc"}, [], "was trained on revision abc of builtin:tiny; set model.revision=abc"),
    "pissa": (
        {"init_lora_weights": "pissa"},
        ["model.adapter_mode=stack"],
        "saved with init_lora_weights=pissa: it belongs to a base",
    ),
    "quantised": (
        {},
        ["finetuning=qlora", "model.adapter_mode=stack"],
        "would merge into quantised weights and round them again",
    ),
    "vllm": (
        {},
        ["evaluation.backend=vllm", "evaluation.answers=true", "model.adapter_mode=stack"],
        "reads weights from files, and model.adapter_mode=stack merges in memory",
    ),
}


@pytest.mark.parametrize(("config", "words", "line"), FAULTS.values(), ids=FAULTS)
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(
    config, words, line, rounds, cache, tmp_path, monkeypatch, packages
):
    write_adapter(tmp_path / "a", tiny_base(cache))  # before: peft remembers which packages it sees first
    packages(bitsandbytes=True, vllm=True)
    monkeypatch.setattr("near.training.train.load_start", lambda *args: pytest.fail("loaded"))
    changed(tmp_path / "a", **config)
    with pytest.raises(UserError, match=line):
        train(configured("train", *rounds, f"model.adapter={tmp_path}/a", *words), tmp_path / "run")


def test_folders_that_are_no_adapter(rounds, trained, tmp_path):
    def fault(adapter: object, output_dir: str = "run") -> str:
        with pytest.raises(UserError) as error:
            train(configured("train", *rounds, f"model.adapter={adapter}"), tmp_path / output_dir)
        return str(error.value)

    assert "no such folder; name an adapter, a run, a checkpoint or a hub id" in fault(tmp_path / "none")
    assert "no such folder, and the hub did not provide it" in fault("some/adapter")
    assert "name several adapters" in fault(f"[{trained},{trained}]").replace("names", "name")
    assert "merge.py 'adapter_name_or_path=[a,b]'" in fault("'a,b'")
    assert "lies in output_dir, and training would replace it" in fault(trained, "one")
    (trained / "adapter" / "adapter_model.safetensors").rename(trained / "adapter" / "adapter_model.bin")
    assert "reads no other format (a .bin file may execute code)" in fault(trained)
    shutil.rmtree(trained / "adapter")
    assert "its training has not ended: name one of its checkpoints" in fault(trained)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}")
    assert "is a whole model, not an adapter; use model.name_or_path" in fault(tmp_path / "whole")
    with pytest.raises(UserError, match="model.adapter_mode=stack would have no effect without model.adapter"):
        configured("train", *rounds, "model.adapter_mode=stack")


def test_a_hub_id_is_downloaded_without_other_files(tmp_path, cache, monkeypatch):
    import huggingface_hub

    write_adapter(tmp_path / "a", tiny_base(cache))
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **more: asked.append((name, more)) or tmp_path / "a"
    )
    assert adapter_folder("org/once") == tmp_path / "a" == adapter_folder("org/once", "embedder.adapter")
    assert asked == [("org/once", {"allow_patterns": ["adapter_config.json", "adapter_model.safetensors"]})]


def test_a_dry_run_downloads_no_adapter(rounds, tmp_path, monkeypatch):
    import huggingface_hub

    def snapshot_download(name, local_files_only=False, **more):
        if not local_files_only:
            pytest.fail("a download")
        raise OSError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    cfg = configured("train", *rounds, "model.adapter=org/name", "dry_run=true")
    with pytest.raises(UserError, match="model.adapter=org/name would be downloaded.*hf download org/name"):
        train(cfg, tmp_path / "run")
    words = [word for word in rounds if word.startswith("data")]
    cfg = configured("select", *words, "selector=loss", "n=5", "model.adapter=org/name", "dry_run=true")
    with pytest.raises(UserError, match="model.adapter=org/name would be downloaded"):
        select(cfg, tmp_path / "selection")


def test_a_dry_run_checks_a_base_that_is_here(rounds, trained, tmp_path):
    more = ["dry_run=count", f"model.adapter={trained}"]
    cfg = configured("train", *rounds, *more, "finetuning.target_modules=[q_proj]")
    with pytest.raises(UserError, match="adapts other layers than finetuning.target_modules"):
        train(cfg, tmp_path / "run")


def test_gradients_at_the_start_are_those_of_the_adapter(rounds, trained, cache, tmp_path):
    """A new adapter's B is zero, so that gradients of A are; after training neither is. select.py takes them, too."""
    words = [word for word in rounds if not word.startswith(("selector", "trainer.warmup_step"))]
    words += ["trainer.warmup_step=0", "scoring.dim=64", f"model.adapter={trained}"]
    train(configured("train", *words, "selector=less"), tmp_path / "less")
    size = len(RunFolder(tmp_path / "less").round_ids(0))
    shared = [word for word in words if word.startswith(("data", "cache_dir", "embedder", "model", "scoring"))]
    select(configured("select", *shared, "selector=less", f"n={size}"), tmp_path / "selected")
    assert set(np.load(tmp_path / "selected" / "subset.npy")) == set(RunFolder(tmp_path / "less").round_ids(0))
    cfg = configured("train", *words)
    model, new = load_start(cfg.model, str(cache)), add_finetuning(tiny_base(cache), cfg.finetuning)
    for one, is_zero in ((model, False), (new, True)):
        one.train()(input_ids=IDS, labels=IDS).loss.backward()
        a = [weight.grad for name, weight in one.named_parameters() if "lora_A" in name]
        assert a and all((grad.abs().max() == 0) == is_zero for grad in a)
    train(configured("train", *words, "trainer=dynamic_mix", "mixer=doremi", "mixer.sample=4"), tmp_path / "mix")
    excess = RunFolder(tmp_path / "mix").rounds[0].mix["excess"]
    assert all(value == 0 for value in excess.values())  # at the start the reference is the model itself


def test_rds_embeds_with_the_adapter(rounds, trained, cache, tmp_path):
    def embedder(*words: str):
        return instantiate(configured("select", "model=tiny", "embedder=rds", *words).embedder, cache_dir=str(cache))

    messages = [[{"role": "user", "content": "name the colour"}, {"role": "assistant", "content": "red"}]]
    plain, adapted = embedder(), embedder(f"model.adapter={trained}")
    texts = [plain.text(one) for one in messages]
    assert adapted.signature == {**plain.signature, "adapter": adapter_digest(trained / "adapter")}
    states = with_adapter(tiny_base(cache), trained / "adapter").eval()
    ids = adapted._coded(texts)[0]
    with torch.no_grad():
        last = states(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    weights = torch.arange(1, len(ids) + 1).float()
    expected = (last * (weights / weights.sum())[:, None]).sum(0)
    expected = (expected / expected.norm()).numpy()
    assert np.allclose(adapted.embed(texts)[0], expected, atol=1e-5)
    assert not np.allclose(plain.embed(texts)[0], expected, atol=1e-4)


def test_an_embedders_own_adapter_is_known_by_its_content(rounds, cache, tmp_path):
    def known() -> str:
        words = [word for word in rounds if not word.startswith("embedder=")]
        cfg = configured("train", *words, "embedder=rds", f"embedder.adapter={tmp_path}/a", f"cache_dir={cache}")
        selector = selection_of(cfg)
        rows = load_rows(cfg, str(cache), selector, needs_of(cfg, selector), tmp_path / "run")
        return rows.identity.config["embedder"]["adapter"]

    write_adapter(tmp_path / "a", tiny_base(cache))
    first = known()
    assert first == adapter_digest(tmp_path / "a")
    write_adapter(tmp_path / "a", tiny_base(cache), seed=1)
    assert known() != first


def test_twins_share_a_start_and_others_do_not(rounds, trained, cache):
    folder = base_folder(configured("train", *rounds).model, str(cache))
    keys = [
        of_model(configured("train", *rounds, *words).model, folder)
        for words in (
            (),
            (f"model.adapter={trained}",),
            (f"model.adapter={trained}/adapter",),
            (f"model.adapter={trained}", "model.adapter_mode=stack"),
        )
    ]
    assert keys[1] == keys[2] and all(keys[1] != keys[i] for i in (0, 3)) and keys[0] != keys[3]
    assert "adapter" not in keys[0]  # caches of earlier versions stay
