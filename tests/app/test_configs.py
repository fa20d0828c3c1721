"""Every file under conf/ and sweeps/ composes, passes the check and names a class that takes its keys."""

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from near.common.config import CONF
from near.common.errors import UserError
from near.common.signature import keywords
from near.embedding.embedders.base import Embedder
from near.selection.mixers.base import Mixer
from near.selection.orders.base import Order
from near.selection.plan.kinds import KINDS
from near.selection.plan.plan import Plan
from near.selection.selectors.base import Selector
from near.training.weighters.base import RowWeighter
from tests.conftest import ROOT, composed, configured

GROUPS = (
    "data",
    "embedder",
    "index",
    "selector",
    "model",
    "finetuning",
    "trainer",
    "parallel",
    "evaluation",
    "tracker",
    "similarity",
    "scoring",
    "mixer",
    "weighter",
    "order",
    "plan",
    "stage",
)
GROUPS = (*GROUPS, "experiment")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
SWEEPS = sorted(p.stem for p in (ROOT / "sweeps").glob("*.yaml"))
AGENTS = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))  # W&B's, no configurations of Hydra's


def choices(group: str) -> list[str]:
    return [name for g, name in CHOICES if g == group]


def test_every_file_is_seen():
    assert all((CHOICES, HYDRA, SWEEPS, AGENTS))
    found = {p.relative_to(CONF) for p in CONF.glob("*/*.yaml") if p.parent.name != "sweeps"}
    assert found == {Path(g) / f"{n}.yaml" for g, n in CHOICES}


@pytest.mark.parametrize("turn", range(max(len(choices(group)) for group in GROUPS)))
def test_every_choice_composes(turn):
    """The n-th choice of every group together (composing is what takes time): each choice comes up. Mixers and
    weighters have trainers of their own (below)."""
    apart = ("experiment", "mixer", "weighter", "order", "plan", "stage", "trainer")
    chosen = {group: choices(group)[turn % len(choices(group))] for group in GROUPS if group not in apart}
    chosen["trainer"] = ("dynamic_select", "static")[turn % 2]
    cfg = configured("train", *(f"{group}={name}" for group, name in chosen.items()))
    for group, name in chosen.items():
        written = OmegaConf.load(CONF / group / f"{name}.yaml")
        written = written[group] if group in written else written  # `@package _global_` sets others, too
        assert set(written) - {"defaults"} <= set(cfg[group]), group


@pytest.mark.parametrize(
    ("group", "name", "trainer"),
    [("mixer", name, "dynamic_mix") for name in choices("mixer")]
    + [("weighter", name, "dynamic_weight") for name in choices("weighter")],
)
def test_every_mixer_and_weighter_composes(group, name, trainer):
    cfg = configured("train", f"trainer={trainer}", f"{group}={name}")
    assert set(OmegaConf.load(CONF / group / f"{name}.yaml")) == set(cfg[group])
    reader = instantiate(cfg.selector).mixer if group == "mixer" else instantiate(cfg.trainer).keywords["weighter"]
    assert isinstance(reader, Mixer if group == "mixer" else RowWeighter)


@pytest.mark.parametrize("name", choices("plan"))
def test_every_plan_composes(name):
    cfg = configured("train", f"plan={name}")
    plan = instantiate(cfg.plan)
    if name == "none":
        assert plan is None
        return
    assert isinstance(plan, Plan)
    for stage in plan.stages.values():  # each as its file has it
        written = OmegaConf.load(CONF / "stage" / f"{stage.kind}.yaml")
        assert set(written) | {"by"} == set(cfg.plan[stage.name])


def test_the_plans_have_all_kinds_of_stages():
    assert {path for path in choices("stage")} == set(KINDS)
    assert list(instantiate(configured("train", "plan=hierarchical").plan).stages) == list(KINDS)


@pytest.mark.parametrize("name", choices("order"))
@pytest.mark.parametrize("trainer", ["dynamic_select", "dynamic_mix"])
def test_every_order_composes(name, trainer):
    cfg = configured("train", f"trainer={trainer}", f"order={name}")
    assert set(OmegaConf.load(CONF / "order" / f"{name}.yaml")) == set(cfg.order)
    assert isinstance(instantiate(cfg.order), Order)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("trainer=dynamic_mix selector=near", "picks rows by their source, and selector=near does not; leave"),
        ("mixer=odm", "mixer=odm would have no effect; use trainer=dynamic_mix"),
        (
            "trainer=dynamic_mix ~mixer",
            "selector=mix has no mixer; use mixer=static, random, doremi, odm or dynamic_moe",
        ),
        ("weighter=linupper", "weighter=linupper would have no effect; use trainer=dynamic_weight"),
        ("trainer=dynamic_weight ~weighter", "trainer=dynamic_weight has no weighter; use weighter=linupper"),
        ("trainer=dynamic_weight selector=near", "trains on the whole pool, and selector=near would have no effect"),
        (
            "trainer=dynamic_weight trainer.train_step=4",
            "trainer.train_step=4 includes trainer.warmup_step=4 and leaves no",
        ),
        ("trainer=dynamic_weight +trainer.args.max_steps=9", "trainer.args.max_steps is set by trainer.train_step"),
        ("trainer=dynamic_mix mixer.sample=0", "mixer.sample=0 is too small; use mixer.sample>=1"),
        ("trainer=dynamic_mix +mixer.samples=3", "mixer.samples is not an option of Odm; did you mean sample?"),
        ("trainer=dynamic_weight weighter.r=0", "weighter.r=0 is too small"),
        ("trainer=dynamic_mix mixer=doremi mixer.reference=3.5", "mixer.reference=3.5 is not a path or name"),
        ("order=saw trainer=static", "order=saw would have no effect without rounds; use trainer=dynamic_select"),
        ("order=saw trainer.group_by_length=true", "trainer.group_by_length=true would undo order=saw; leave one"),
        ("order=saw similarity=gradients", "order.score=loss can't be combined with similarity=gradients; use order"),
        ("order=saw order.score=losses", "order.score=losses is not one of loss, selector, column, similarity, length"),
    ],
)
def test_groups_that_do_not_fit_together_are_refused(words, fault):
    with pytest.raises(UserError) as caught:
        configured("train", *words.split())
    assert fault in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_composes(name):
    assert configured("train", f"experiment={name}").selector


@pytest.mark.parametrize("script", ["select", "train", "merge", "eval", "report", "verify", "diff"])
def test_script_composes(script):
    needed = {"merge": ("adapter_name_or_path=a", "export_dir=b"), "report": ("runs=r",)}
    needed |= {"verify": ("folder=a",), "diff": ("folder=a", "other=b")}
    assert configured(script, *needed.get(script, ())).seed == 42


@pytest.mark.parametrize("name", SWEEPS)
def test_sweep_composes(name):
    cfg = configured("train", f"sweeps={name}")
    assert cfg.sweep_name == name
    written = OmegaConf.load(ROOT / "sweeps" / f"{name}.yaml")
    for key in ("hydra", "defaults"):
        written.pop(key, None)
    assert OmegaConf.merge(cfg, written) == cfg  # what it sets goes before the script's own values


HYDRA = sorted(CONF.glob("hydra/*/*.yaml"))


@pytest.mark.parametrize("path", HYDRA, ids=lambda path: path.stem)
def test_launchers_and_sweepers_compose(path):
    whole, _ = composed("train", (f"hydra/{path.parent.name}={path.stem}",))
    written = OmegaConf.load(path)
    assert OmegaConf.masked_copy(whole.hydra[path.parent.name], list(written)) == written
    if path.parent.name == "launcher":
        taken = keywords(written._target_)
        assert taken is None or set(written) - {"_target_"} <= taken


def test_every_file_opens_with_its_command():
    for path in [*CONF.glob("*.yaml"), *CONF.glob("*/*.yaml"), *HYDRA, *(ROOT / "sweeps").glob("**/*.yaml")]:
        head = path.read_text().splitlines()[:2]
        assert any("python " in line or "torchrun " in line for line in head) or path.name == "base.yaml", path


QUERY_PROMPTS = [{"role": "user", "content": "cats"}]


@pytest.fixture()
def model_files(tmp_path) -> str:
    """A folder that names the prompts of Qwen3-Embedding, as its own configuration does, and no weights."""
    instruction = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    prompts = {"prompts": {"query": instruction, "document": ""}, "default_prompt_name": None}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


@pytest.mark.parametrize("name", choices("embedder"))
def test_embedder_keeps_the_contract(name, cache, model_files):
    cfg = configured("select", f"embedder={name}").embedder
    if "backend" in cfg:
        cfg.model = model_files
    embedder = instantiate(cfg, cache_dir=str(cache))
    assert isinstance(embedder, Embedder)
    fields = {"rds": "chat", "hidden_states": "chat", "answer_states": "both"}
    assert embedder.embed_field == fields.get(name, "prompt")
    assert (embedder.chunk, embedder.store_dtype, embedder.launcher) == (cfg.chunk, "float32", None)
    if "backend" in cfg:
        assert embedder.query(QUERY_PROMPTS).endswith("cats")


def test_a_models_own_instruction_stands_before_queries_only(cache, model_files):
    cfg = configured("select", "embedder=qwen3").embedder
    assert (cfg.model, cfg.query_prompt) == ("Qwen/Qwen3-Embedding-0.6B", "auto")
    cfg.model = model_files
    embedder = instantiate(cfg, cache_dir=str(cache))
    assert embedder.query(QUERY_PROMPTS) == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:cats"
    )
    assert embedder.document(QUERY_PROMPTS) == "cats"
    cfg.query_prompt, cfg.document_prompt = None, "passage: "
    embedder = instantiate(cfg, cache_dir=str(cache))
    assert (embedder.query(QUERY_PROMPTS), embedder.document(QUERY_PROMPTS)) == ("cats", "passage: cats")


def test_e5_puts_its_prefix_before_both(cache):
    embedder = instantiate(configured("select", "embedder=e5").embedder, cache_dir=str(cache))
    assert (embedder.query(QUERY_PROMPTS), embedder.document(QUERY_PROMPTS)) == ("query: cats", "query: cats")


@pytest.mark.parametrize("name", choices("selector"))
def test_selector_instantiates(name):
    assert isinstance(instantiate(configured("train", f"selector={name}").selector), Selector)


@pytest.mark.model
@pytest.mark.parametrize("name", choices("trainer"))
def test_training_arguments_are_accepted(name, tmp_path):
    args = instantiate(configured("train", f"trainer={name}").trainer.args)(output_dir=str(tmp_path), report_to="none")
    assert args.lr_scheduler_type == "cosine"


@pytest.mark.parametrize("name", choices("parallel"))
def test_sharing_is_keywords_of_training_arguments(name):
    cfg = configured("train", f"parallel={name}", "finetuning=qlora", "model=tiny").parallel
    assert set(cfg) <= keywords("transformers.training_args.TrainingArguments")
    if name.startswith("deepspeed"):
        assert cfg.deepspeed.zero_optimization.stage == int(name[-1])


@pytest.mark.model
@pytest.mark.parametrize("name", choices("finetuning"))
def test_finetuning_instantiates(name):
    whole = configured("train", f"finetuning={name}")
    cfg = whole.finetuning
    made = instantiate(cfg)
    if name == "qlora":
        assert instantiate(whole.model.quantization).load_in_4bit
    else:
        assert whole.model.quantization is None
    if name == "full":
        assert OmegaConf.to_container(cfg) == {}
    else:
        assert (made.r, made.use_dora) == (16, name == "dora")


def test_openhermes_holds_the_known_values():
    cfg = configured("train", "experiment=openhermes")
    candidates, queries = cfg.data.candidates, cfg.data.queries
    assert (candidates.path, candidates.split) == ("OpenDCAI/DataFlex-selector-openhermes-10w", "train")
    assert (queries.path, queries.split) == ("OpenDCAI/DataFlex-selector-openhermes-10w", "validation")
    assert (cfg.max_K, cfg.seed, cfg.embedder.batch_size) == (1000, 42, 32)
    assert (cfg.data.cutoff_len, cfg.data.num_proc) == (4096, 16)
    trainer, lora = cfg.trainer, cfg.finetuning
    assert (trainer.warmup_step, trainer.update_step, trainer.update_times) == (400, 500, 2)
    assert (lora.r, lora.lora_alpha, lora.target_modules) == (16, 8, "all-linear")
    args = trainer.args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 16)
    assert (args.learning_rate, args.lr_scheduler_type, args.warmup_steps, args.bf16) == (1e-4, "cosine", 0.1, True)
    assert (args.logging_steps, args.save_steps, args.save_only_model) == (10, 100, False)
