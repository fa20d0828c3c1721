"""The model card of an export, and pushing it."""

import re
from pathlib import Path

import pytest
import yaml

from near.common.errors import UserError
from near.common.files import read_json
from near.common.outputs import LIST
from near.common.run_folder import RunFolder
from near.export.model_card import label, on_disk, without_folders
from near.training.train import train
from tests.conftest import configured, write_rows
from tests.merging import merged, tiny_base, write_adapter

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache, small_data):
    """A run of near with a further set."""
    folder = tmp_path_factory.mktemp("a folder") / "summing"
    more = write_rows(folder.parent / "more.jsonl", [{"instruction": "what is 3 and 4", "input": "", "output": "7"}])
    few = ["trainer.warmup_step=1", "trainer.update_step=2", "trainer.update_times=1", "embedder=hashing", "max_K=15"]
    few += ["trainer.args.learning_rate=0.05", "selector=near", "model=tiny", f"data.more_eval={{other: '{more}'}}"]
    few += ["evaluation.max_new_tokens=4", "data.candidates.limit=50"]
    train(configured("train", *small_data, f"cache_dir={cache}", *few), folder)
    return folder


@pytest.fixture(scope="module")
def card(run, cache, tmp_path_factory) -> tuple[dict, str]:
    out = tmp_path_factory.mktemp("exports") / "my-model"
    merged(run / "adapter", cache, out)
    text = (out / "README.md").read_text(encoding="utf-8")
    front = re.match(r"---\n(.*?)\n---\n\n# my-model\n", text, re.DOTALL)
    return yaml.safe_load(front.group(1)), text


def test_the_front_matter(card):
    front, _ = card
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["near", "data-selection", "selector:near"],
    }


def test_data_selector_and_schedule(card, run):
    text = card[1]
    prints = read_json(run / "train_metrics.json")["identity"]["fingerprints"]
    assert f"| candidates | pool.jsonl (the first 50 rows) | {prints['candidates']} |" in text
    assert f"| queries | queries.jsonl | {prints['queries']} |" in text
    assert f"| eval | eval.jsonl | {prints['eval']} |" in text
    assert "- Selector: near (policy=repeat, temperature=0.05, mix=0, max_K=15)" in text
    assert "- Schedule: 2 rounds, 3 steps (warmup_step=1, update_step=2, update_times=1, cycles=1)" in text
    trained = read_json(run / "train_metrics.json")
    assert f"- Rows trained: {trained['rows_trained']}, {trained['distinct_rows']} distinct ones; seed 42" in text
    assert re.search(r"- Rows picked, by source, over all rounds: \w+ \d+", text)
    assert "- Adapter: LORA (r=16, lora_alpha=16, lora_dropout=0.0)" in text


def test_metrics_beside_the_bases(card, run):
    text, metrics = card[1], read_json(run / "metrics.json")
    low, high = metrics["target_loss_interval"]
    ours = f"{metrics['target_loss']:.4f} [{low:.4f}, {high:.4f}]"
    assert f"| target (5 rows) | loss | {ours} | {metrics['base']['target_loss']:.4f} [" in text
    assert "| target | exact | 0.0000 (0 of 5) | 0.0000 (0 of 5) |" in text
    assert f"| other (1 row) | loss | {metrics['more']['other']['target_loss']:.4f} |" in text


def test_lineage(card):
    text = card[1]
    assert "- Base model: builtin:tiny" in text
    assert "- Adapter: adapter of run summing" in text
    assert len(re.findall(r" transformers \d+\.\d+", text)) == 2, "of the training and of the merge"
    assert "these files, read back" in text


def test_no_place_of_this_machine(card, run, cache):
    for place in (str(run), str(run.parent), str(cache), "/tmp", "/home", "/root"):
        assert place not in card[1]


def test_no_place_of_this_machine_in_any_file(run, cache, tmp_path):
    merged(run / "adapter", cache, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert str(cache).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a=/home/me/x.jsonl b=~/y/z c=runs/one/adapter", "a=x.jsonl b=z c=runs/one/adapter"),
        ("p={a: /data/a b/c.jsonl} q=[/x/y,./z]", "p={a: c.jsonl} q=[y,z]"),
        ("u=https://huggingface.co/a/b t=${oc.env:HF_TOKEN}", "u=https://huggingface.co/a/b t=${oc.env:HF_TOKEN}"),
    ],
)
def test_paths_are_cut(text, left):
    assert without_folders(text) == left


def test_labels(tmp_path):
    assert label("org/data") == "org/data"
    assert label("builtin:evals/pool.jsonl") == "builtin:evals/pool.jsonl"
    assert label(str(tmp_path / "x.jsonl")) == "x.jsonl"
    assert on_disk("data/pool.jsonl")
    assert label("../mine/*.parquet") == "*.parquet"


def test_a_hubs_names_are_in_the_front_matter():
    from omegaconf import OmegaConf

    from near.export.lineage import Adapter, AdapterRun
    from near.export.model_card import Export, front_matter

    data = {"candidates": {"path": {"a": "org/pool", "b": "x.jsonl"}}, "queries": {"path": ["org/more", "org/pool"]}}
    config = OmegaConf.create({"data": data | {"eval": {"path": None}}})
    run = AdapterRun(RunFolder(Path("nowhere")), config, final=True)
    adapter = Adapter(run.folder, {}, run)
    front = front_matter(Export(OmegaConf.create({}), "org/base", None, [adapter]))
    assert front["base_model"] == "org/base"
    assert front["datasets"] == ["org/pool", "org/more"]


def test_an_adapter_from_elsewhere(cache, tmp_path):
    write_adapter(tmp_path / "theirs", tiny_base(cache))
    merged(tmp_path / "theirs", cache, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "builtin:tiny with the fine-tuning of `theirs` merged into its weights (float32)" in text
    assert "Logits on 6 built-in prompts" in text


class Hub:
    """A stand-in for huggingface_hub.HfApi that records its calls."""

    calls: list = []
    exists = False
    fault: Exception | None = None

    def __init__(self, token=None):
        self.calls.append(("token", token))

    def whoami(self):
        self.calls.append(("whoami",))

    def repo_exists(self, name):
        return self.exists

    def create_repo(self, name, private, exist_ok):
        self.calls.append(("create", name, private, exist_ok))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, repo_id, folder_path, ignore_patterns, commit_message):
        from pathlib import Path

        if self.fault:
            raise self.fault
        self.calls.append(
            ("upload", repo_id, sorted(p.name for p in Path(folder_path).iterdir() if p.name not in ignore_patterns))
        )


@pytest.fixture()
def hub(monkeypatch):
    fake = type("Fake", (Hub,), {"calls": []})
    monkeypatch.setattr("huggingface_hub.HfApi", fake)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return fake


def test_push(run, cache, tmp_path, hub, caplog):
    import logging

    with caplog.at_level(logging.INFO):
        merged(run / "adapter", cache, tmp_path / "out", "push_to_hub=me/model")
    assert ("create", "me/model", True, True) in hub.calls
    assert hub.calls[-1] == ("upload", "me/model", sorted({p.name for p in (tmp_path / "out").iterdir()} - {LIST}))
    assert {call[1] for call in hub.calls if call[0] == "token"} == {"hf_secret"}
    assert "pushed to https://huggingface.co/me/model" in caplog.text
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes()
    hub.calls.clear()
    merged(run / "adapter", cache, tmp_path / "not_pushed")
    assert hub.calls == []


def test_a_push_that_can_not_be_is_refused_before_anything_is_loaded(run, cache, tmp_path, hub, monkeypatch):
    def refusal(*more):
        with pytest.raises(UserError) as caught:
            merged(run / "adapter", cache, tmp_path / "out", *more)
        return str(caught.value)

    assert "push_to_hub=model is not of the form ORG/NAME" in refusal("push_to_hub=model")
    hub.exists = True
    assert "push_to_hub=me/model exists already; name another model or set overwrite=true" in refusal(
        "push_to_hub=me/model"
    )
    hub.exists = False
    monkeypatch.setattr(hub, "whoami", lambda self: (_ for _ in ()).throw(OSError("401 Unauthorized")))
    assert "the hub refuses HF_TOKEN or is unreachable (401 Unauthorized)" in refusal("push_to_hub=me/model")
    monkeypatch.delenv("HF_TOKEN")
    assert "put it into the environment variable HF_TOKEN" in refusal("push_to_hub=me/model")
    assert not (tmp_path / "out").exists()


def test_a_push_that_fails_leaves_a_whole_export(run, cache, tmp_path, hub):
    hub.fault = OSError("connection lost")
    with pytest.raises(UserError, match=r"failed \(connection lost\); .*out is complete: hf upload me/model"):
        merged(run / "adapter", cache, tmp_path / "out", "push_to_hub=me/model", "push_private=false")
    assert ("create", "me/model", False, True) in hub.calls
    assert (tmp_path / "out" / "model.safetensors").exists()
