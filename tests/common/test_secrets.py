"""Literal secrets are refused; neither secrets nor values of the environment are written or shown."""

import json
import logging
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from near.app.check.check import check
from near.app.faults import fault_line
from near.common import secrets
from near.common.config import CONF, folder_name, identity, public
from near.common.errors import UserError
from tests.conftest import ROOT, configured, run_script

HEX = "0123456789abcdef0123456789abcdef01234567"
WRITTEN_OUT = [
    *(
        "+trainer.args.hub_token=abc",
        "+trainer.args.token=abc",
        "+tracker.api_key=x",
        "+tracker.KEY=x",
        "+tracker.Token=x",
    ),
    *("+data.token=abc", "+data.candidates.password=x", "+embedder.server.apiKey=abc", "+embedder.engine.api-key=x"),
    *(
        "+parallel.deepspeed={monitor: [{token: abc}]}",
        "+parallel.x=[[{a: {password: 1234}}]]",
        "+parallel.token=[a, b]",
    ),
    *("+a.password=12345678", "+a.PASSWD=x", "+a.authToken=x", "+a.aws_secret_access_key=x", "+a.client_secret=x"),
    *("hydra.job.env_set.HF_TOKEN=x", "+hydra.job.env_set={WANDB_API_KEY: x}", "+a.private_key=x", "+a.my_token=x"),
    *("+a.x=hf_abcdefghijklmnopqrst", "+a.x=[1, {y: hf_abcdefghijklmnopqrst}]", "+a.x=sk-abcdefghijklmnopqrst"),
    *(
        "+a.x=sk-proj-abcdefghij_klmnopqrst",
        "+a.x=ghp_abcdefghijklmnopqrstuvwxyz",
        "+a.x=github_pat_11ABCDEFG0abcdefghijkl",
    ),
    *(f"tracker.project={HEX}", f"+a.x=local-{HEX}", "+a.x=AKIAIOSFODNN7EXAMPLE", "+a.x='Bearer abcdefghijkl'"),
    *("+a.x='Basic dXNlcjpodW50ZXIy'", "+a.x=xoxb-1234567890-abc", "+a.x=eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJ"),
    *("embedder.server.url=http://me:hunter2@host/v1", "embedder.server.url='http://h/v1?token=abc'"),
    *(
        "+a.x='postgresql://u:p%40w@h/db'",
        "+a.x='https://:hunter2@h'",
        "data.candidates.path='https://h/x?api_key=1&b=2'",
    ),
    *("+a.x='https://h/x?a=1&X-Amz-Signature=ab'", "+a.x='redis://:pw/d@h'", "sweep_name=hf_abcdefghijklmnopqrst"),
    *("+a.hub_token='${oc.env:HF_TOKEN,abc}'", "+a.x='${oc.env:NAME,hf_abcdefghijklmnopqrst}'", "+a.password=a,b"),
    *("+a.x='https://u:${oc.env:NAME,hunter2}@h'", "data.more_eval.x.token=1", "+a={b: {secret: x}}", "+a.key=k"),
]
HARMLESS = [
    *("data.candidates.key=examples", "data.eval.key=data.rows", "data.candidates.columns.output=token"),
    *("data.candidates.columns.instruction=key", "+data.candidates.filter={token: x, password: y, key: z}"),
    *("data.more_eval={token: a.jsonl, key: b.jsonl}", "+data.more_eval.password={path: a.jsonl, key: x}"),
    *("data.candidates.path={token: a.jsonl}", "+data.candidates.columns.token=x", "evaluation.max_new_tokens=4"),
    *("+trainer.args.hub_token='${oc.env:HF_TOKEN}'", "+trainer.args.hub_token='${oc.env:HF_TOKEN,null}'"),
    *(
        "+a.hub_token=null",
        "+a.token=''",
        "+a.eos_token=<|im_end|>",
        "+a.pad_token=[PAD]",
        "+a.token=<s>",
        "+a.x=token",
    ),
    *("embedder.server.api_key_env=VLLM_API_KEY", "+embedder.engine.tokenizer=a/b", "+a.tokenizer_mode=auto"),
    *(f"model.revision={HEX}", f"data.candidates.revision={HEX}", f"+a.code_revision={HEX}", f"+a.x=models/{HEX}/x"),
    *("embedder.server.url=http://127.0.0.1:8000/v1", "embedder.server.url='https://u:${oc.env:PW}@h/v1'"),
    *("+a.x='http://h:80/a@b'", "tracker.tracking_uri=sqlite:///mlruns/x.db", "+a.x=ssh://git@github.com/x"),
    *("+a.x=s3://bucket/key=1/part", "+a.x=task-force-of-the-week", "+a.keys=3", "+a.tokens=x", "+a.sort_key=length"),
    *("model.split_special_tokens=true", "+a.x=user@host", "+a.x='Bearer ${oc.env:X}'", "seed=0,1", "+a.token=true"),
    "+trainer.args.include_num_input_tokens_seen=all",
]


def faults(word: str) -> str | None:
    try:
        secrets.check_words([word])
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("word", WRITTEN_OUT)
def test_written_out(word):
    fault, key = faults(word), word.lstrip("+").partition("=")[0]
    assert fault is not None and fault.startswith(key) and "environment" in fault
    for secret in ("abcdefghijkl", "hunter2", "12345678", "SflKx", "dXNlc", HEX, "AKIA", "=1&", "p%40w", "pw/d"):
        assert secret not in fault


@pytest.mark.parametrize("word", HARMLESS)
def test_harmless(word):
    assert faults(word) is None


def test_configurations_are_checked_wherever_a_secret_stands():
    cfg = configured("train")
    for key, value in (
        ("tracker.token", "a"),
        ("parallel.x", [{"password": "b"}]),
        ("data.default_system", "hf_" + "a" * 20),
    ):
        changed = OmegaConf.create(OmegaConf.to_container(cfg))
        OmegaConf.update(changed, key, value, force_add=True)
        with pytest.raises(UserError, match="is a literal secret"):
            check(changed)


def test_nothing_of_conf_is_taken_for_a_secret():
    for path in CONF.rglob("*.yaml"):
        assert not secrets.faults(OmegaConf.load(path)), path


def test_libraries_have_few_options_named_like_secrets():
    import dataclasses

    from peft import LoraConfig
    from transformers import TrainingArguments

    named = {
        f.name for cls in (TrainingArguments, LoraConfig) for f in dataclasses.fields(cls) if secrets.is_secret(f.name)
    }
    assert named <= {"hub_token", "push_to_hub_token"}


def test_references_stay_references_whatever_the_name(monkeypatch):
    monkeypatch.setenv("PLAIN", "swordfish")
    monkeypatch.delenv("UNSET", raising=False)
    values = {
        "one": "${oc.env:PLAIN}",
        "default": "${oc.env:UNSET,swordfish-default}",
        "inside": "a ${oc.env:PLAIN} b",
        "decoded": "${oc.decode:${oc.env:PLAIN}}",
        "first": "${near.first:'',${oc.env:PLAIN}}",
        "indirect": "${one}",
        "twice": "${indirect}",
        "selected": "${oc.select:one}",
        "list": ["${oc.env:PLAIN}", {"deep": "${one}"}],
        "unset": "${oc.env:UNSET}",
        "group": {"part": "${one}"},
        "whole": "${group}",
        "values": "${oc.dict.values:group}",
    }
    cfg = OmegaConf.create({**values, "plain": "${other}", "other": 3, "none": None})
    written = public(cfg)
    assert "swordfish" not in json.dumps({k: v for k, v in written.items() if k != "default"})
    assert written == {**values, "plain": 3, "other": 3, "none": None}
    assert "swordfish" not in json.dumps(identity(OmegaConf.create({"one": "${oc.env:PLAIN}"})))


def test_a_value_of_the_environment_decides_a_result_all_the_same(monkeypatch):
    cfg = OmegaConf.create({"rate": "${oc.env:RATE}", "hub": {"token": "${oc.env:RATE}"}, "x": "${oc.env:MY_TOKEN}"})
    results = []
    for rate in ("1e-3-first", "1e-4-second", "1e-3-first"):
        monkeypatch.setenv("RATE", rate)
        monkeypatch.setenv("MY_TOKEN", rate)
        results.append(identity(cfg))
    assert results[0] == results[2] and results[0]["rate"] != results[1]["rate"] and "first" not in str(results)
    assert results[0]["hub"] == results[1]["hub"] and results[0]["x"] == results[1]["x"], "a new token is no other run"


def test_folders_are_not_named_by_values_of_the_environment(monkeypatch):
    monkeypatch.setenv("PLAIN", "swordfish")
    cfg = OmegaConf.create({"words": ["+a='${oc.env:PLAIN}'", "b=1"], "name": "${near.job:${words},[],''}"})
    assert folder_name(cfg.words) == cfg.name and "PLAIN" in cfg.name and "swordfish" not in cfg.name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:hunter2@host/x?a=1", "at https://me:***@host/x?a=1"),
        ("at https://h/x?token=abc&b=2: no", "at https://h/x?token=***&b=2: no"),
        ("401 for hf_abcdefghijklmnopqrst.", "401 for ***."),
        ("Authorization: Bearer abcdefghijkl", "Authorization: ***"),
        ("a.hub_token=abc can't be read", "a.hub_token=*** can't be read"),
        ("{'token': 'abc', 'b': 1}", "{'token': '***', 'b': 1}"),
        ('{"api_key": "abc"}', '{"api_key": "***"}'),
        ("x={token: abc}", "x={token: ***}"),
        ("hub_token='${oc.env:NAME}'", "hub_token='${oc.env:NAME}'"),
        ("data.candidates.key=rows: no such key", "data.candidates.key=rows: no such key"),
        ("set data.queries.key=...", "set data.queries.key=..."),
        ("max_new_tokens=4, eos_token=</s>, the key: a", "max_new_tokens=4, eos_token=</s>, the key: a"),
        ("it has swordfish in it", "it has ${oc.env:MY_SECRET} in it"),
        ("http://127.0.0.1:8000/v1 did not answer", "http://127.0.0.1:8000/v1 did not answer"),
    ],
)
def test_shown(monkeypatch, text, shown):
    monkeypatch.setenv("MY_SECRET", "swordfish")
    assert secrets.scrub(text) == shown
    assert fault_line(UserError(text)) == shown
    record = logging.LogRecord("near", logging.INFO, "x", 1, "%s", (text,), None)
    assert secrets.Formatter("%(message)s").format(record) == shown


def test_values_that_were_referred_to_are_not_shown(monkeypatch):
    monkeypatch.setenv("ROWS", "/data/ours/rows.jsonl")
    monkeypatch.setenv("SHORT", "1")
    assert OmegaConf.create({"a": "${oc.env:ROWS}", "b": "${oc.env:SHORT}"}).a == "/data/ours/rows.jsonl"
    assert secrets.scrub("/data/ours/rows.jsonl: 1 row") == "${oc.env:ROWS}: 1 row"


# --- what runs leave ------------------------------------------------------------------------------------------------

SCRIPT = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
for line in open(sys.argv[2], encoding="utf-8").read().splitlines():
    sys.argv = line.split("\\t")
    print("$", sys.argv, flush=True)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        print("status", end.code, flush=True)
"""


def left(folder: Path) -> bytes:
    return b"".join(str(p).encode() + (p.read_bytes() if p.is_file() else b"") for p in sorted(folder.rglob("*")))


@pytest.mark.process
@pytest.mark.model
def test_nothing_of_a_secret_is_left(tiny, tmp_path):
    """Runs of all scripts, with secrets by reference and tries to write one out."""
    tiny = [word for word in tiny if not word.startswith("cache_dir=")]
    run, cache = tmp_path / "run", f"cache_dir={tmp_path / 'cache'}"
    by_reference = ["+trainer.args.hub_token='${oc.env:ORDINARY}'", "data.default_system='${oc.env:SYSTEM_TEXT}'"]
    by_reference += ["tracker=tensorboard", "+evaluation.engine.api_key='${oc.env:HF_TOKEN}'"]
    base = [
        word for word in tiny if word.partition(".")[0] in ("data", "embedder", "max_K") or word.startswith("data=")
    ]
    base = [word for word in tiny if word.startswith(("data", "embedder", "max_K"))]
    commands = [
        ["select.py", *base, cache, f"output_dir={tmp_path}/selection", "data.default_system='${oc.env:SYSTEM_TEXT}'"],
        ["train.py", *tiny, cache, *by_reference, f"output_dir={run}"],
        ["eval.py", f"run={run}", cache, "evaluation.batch_size=2", "data.default_system='${oc.env:SYSTEM_TEXT}'"],
        ["eval.py", f"run={run}", cache],  # which refuses the reference of the folder
        ["merge.py", f"adapter_name_or_path={run}/adapter", f"export_dir={tmp_path}/export", cache],
        ["report.py", f"runs={tmp_path}", cache],
        [
            "train.py",
            *tiny,
            cache,
            "+trainer.args.hub_token=hf_swordfishswordfishswordfish",
            f"output_dir={tmp_path}/a",
        ],
        ["train.py", *tiny, cache, "hydra.job.env_set.HF_TOKEN=swordfish-d", f"output_dir={tmp_path}/b"],
        ["train.py", "-m", *tiny, cache, "+tracker.password=swordfish-e,swordfish-f", f"output_dir={tmp_path}/c"],
        ["eval.py", f"run={run}", cache, "++evaluation.note='https://u:swordfish-g@h'"],
        ["train.py", *tiny, cache, "embedder.server.url='http://h/v1?token=swordfish-h", f"output_dir={tmp_path}/d"],
        ["train.py", f"--config-dir={tmp_path}/mine", *tiny, cache, "experiment=secret", f"output_dir={tmp_path}/e"],
        ["train.py", f"--config-dir={tmp_path}/mine", *tiny, cache, "experiment=secret", f"output_dir={run}"],
        ["train.py", "-m", *tiny, cache, *by_reference, f"output_dir={tmp_path}/sweep", "seed=1,nan"],
    ]
    mine = tmp_path / "mine" / "experiment"
    mine.mkdir(parents=True)
    (mine / "secret.yaml").write_text("# @package _global_\nparallel:\n  token: swordfish-i\n")
    lines = "\n".join("\t".join([str(ROOT / script), *words]) for script, *words in commands)
    (tmp_path / "commands").write_text(lines)
    hidden = {"ORDINARY": "swordfish-a", "SYSTEM_TEXT": "swordfish-b says", "HF_TOKEN": "hf_swordfish-c"}
    done = run_script("-c", SCRIPT, str(ROOT), str(tmp_path / "commands"), cwd=tmp_path, env=hidden)
    output = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("$ ["))
    (mine / "secret.yaml").unlink()
    (tmp_path / "commands").unlink()
    assert (run / "metrics.json").is_file() and (tmp_path / "report.html").is_file(), output
    assert (tmp_path / "export" / "model.safetensors").is_file() and (tmp_path / "selection/manifest.json").is_file(), (
        output
    )
    assert output.count("status 1") == 9, output
    assert "swordfish" not in output
    results = left(tmp_path)
    assert b"${oc.env:ORDINARY}" in results
    at = results.find(b"swordfish")
    assert at < 0, [p for p in tmp_path.rglob("*") if p.is_file() and b"swordfish" in p.read_bytes()]
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["default_system"] == "${oc.env:SYSTEM_TEXT}"


def test_the_working_directory_is_no_secret(monkeypatch, tmp_path):
    """PWD ends like a password's name; logs and manifests hold the paths below it as they are."""
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("DB_PWD", "a-password-of-mine")
    assert secrets.scrub(f"wrote {tmp_path}/out") == f"wrote {tmp_path}/out"
    assert secrets.without_values({"path": f"{tmp_path}/pool.jsonl"}) == {"path": f"{tmp_path}/pool.jsonl"}
    assert "a-password-of-mine" not in secrets.scrub("a-password-of-mine")
