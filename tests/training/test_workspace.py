"""The saved W&B workspace: its panels, the runs it shows, and its command line. Nothing is sent."""

import pytest

from near.common.errors import UserError
from near.training.trackers.workspace import main, workspace


@pytest.mark.parametrize(
    "words, message",
    [
        (["project=near"], "entity is missing"),
        (["entity=me", "sweeps=a"], "sweeps is not an option; did you mean sweep"),
        (["entity=me", "rounds=two"], "rounds=two is not a whole number"),
    ],
)
def test_a_mistyped_word_is_one_line(words, message):
    with pytest.raises(UserError, match=message):
        main(words)


def test_a_missing_package_is_reported(packages):
    packages(wandb_workspaces=False)
    with pytest.raises(UserError, match=r'pip install "near\[workspaces\]"'):
        workspace("me")


@pytest.fixture()
def spec():
    made = workspace("me", "mine", "selectors", rounds=2)
    assert (made.entity, made.project, made.name) == ("me", "mine", "near: selectors")
    return made._to_model().model_dump(by_alias=True, exclude_none=True)["spec"]["section"]


@pytest.mark.extras
def test_the_panels_are_those_of_the_comparison(spec):
    sections = {s["name"]: s["panels"] for s in spec["panelBankConfig"]["sections"]}
    assert list(sections) == ["target", "selection", "train", "rows", "settings"]
    lines = [p for s in sections.values() for p in s if p["viewType"] == "Run History Line Plot"]
    assert {p["config"]["xAxis"] for p in lines} == {"step"}
    assert {p["config"]["groupBy"] for p in lines} == {"choices.value.selector"}
    assert {(p["config"]["groupAgg"], p["config"]["groupArea"]) for p in lines} == {("mean", "stddev")}
    shown = {name for p in lines for name in p["config"]["metrics"]}
    assert shown >= {"target/target_loss", "selection/mean_score", "selection/overlap", "train/loss"}
    bars = [p["config"]["metrics"] for p in sections["target"] if p["viewType"] == "Bar Chart"]
    assert bars == [["target/target_loss"], ["target/answers_right"]]
    tables = [str(p["config"]) for p in sections["rows"]]
    assert len(tables) == 2 and all(f"rows/round_{i:03d}" in panel for i, panel in enumerate(tables))
    assert [p["viewType"] for p in sections["settings"]] == ["Run Comparer"]


@pytest.mark.extras
def test_every_metric_shown_is_one_that_is_tracked(spec):
    from near.training.trackers import log

    logged = {f"selection/{name}" for name in log.ROUND} | {f"target/{name}" for name in log.TARGET}
    logged |= {f"train/{name}" for name in ("loss", "learning_rate", "grad_norm")}
    for section in spec["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            assert set(panel["config"].get("metrics", ())) <= logged


@pytest.mark.extras
def test_the_runs_are_those_of_the_sweep_by_selector(spec):
    (runs,) = spec["runSets"]
    (tagged,) = runs["filters"]["filters"]
    assert (tagged["key"]["name"], tagged["op"], tagged["value"]) == ("tags", "IN", ["selectors"])
    assert runs["grouping"] == [{"section": "config", "name": "choices.value.selector"}]
    assert runs["sort"]["keys"][0]["key"] == {"section": "summary", "name": "target/target_loss"}
    assert workspace("me")._to_model().spec.section.run_sets[0].filters is not None


@pytest.mark.extras
def test_without_a_key_saving_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="W&B did not save the workspace: "):
        main(["entity=me"])
