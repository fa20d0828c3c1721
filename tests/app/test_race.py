"""The stages of a race on made losses: who stops, what the budget allows, and how a killed race goes on."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from near.app.race import race
from near.common.errors import UserError
from near.common.files import read_jsonl, write_jsonl
from near.common.records import EvalMetrics
from near.report.races import RaceRecord, notes, stopped, table

LOSSES = {"best": 1.0, "near": 1.01, "random": 1.5, "worst": 2.0}  # target losses at the end, nats a token
STEPS = 10  # of which two are the warm-up
CONFIG = {"trainer": {"warmup_step": 2, "update_step": 4, "update_times": 2, "cycles": 1}, "finetuning": {}}
CONFIG |= {"selector": {"_target_": "near.selection.selectors.first.First"}}


class Sweep:
    """Jobs whose losses are made: a selector's, plus noise by seed and example.

    Args:
        kills: the number of the job in whose place the race is killed.
    """

    def __init__(self, folder: Path, losses=LOSSES, seeds=3, targets=(), noise=0.02, kills=None):
        self.folder, self.losses, self.noise, self.kills = folder, losses, noise, kills
        swept = [[f"data.target={t}" for t in targets]] if targets else []
        swept += [[f"selector={s}" for s in losses], [f"seed={s}" for s in range(seeds)]]
        self.jobs = [["sweeps=race", *words] for words in itertools.product(*swept)]
        self.trained: list[str] = []
        self.failing, self.config = None, CONFIG

    def race(self, **options):
        defaults = {"stages": [[0.25, 2], [1, 2], [1, 3]], "alpha": 0.05, "margin": 0.0, "steps": None, "seconds": None}
        return race(OmegaConf.create({**defaults, **options}), self.folder, self.jobs, self.compose, self.launch)

    def compose(self, words):
        return OmegaConf.create(self.config), "_".join(word.replace("=", "-") for word in words[1:])

    def launch(self, jobs, first):
        return [self.job(words) for words in jobs]

    def job(self, words):
        stop = int(words.pop().partition("=")[2]) if words[-1].startswith("stop_at") else None
        name = self.compose(words)[1]
        if self.kills is not None and len(self.trained) == self.kills:
            raise KeyboardInterrupt
        self.trained.append(f"{name}@{stop or STEPS}")
        if self.failing and self.failing in name:
            return UserError("no such column")
        if (self.folder / name / "metrics.json").is_file():
            return None
        values = dict(word.split("=") for word in words)
        rng = np.random.default_rng((int(values["seed"]), list(self.losses).index(values["selector"]), stop or STEPS))
        loss = self.losses[values["selector"]] + self.noise * rng.normal() + 2 * self.noise * rng.normal(size=8)
        rows = [{"set": "target", "row": i, "loss": x, "tokens": 4} for i, x in enumerate(loss)]
        (self.folder / name / "stopped").mkdir(parents=True, exist_ok=True)
        if stop:
            write_jsonl(self.folder / name / "stopped" / f"{stop}.jsonl", rows)
            return None
        write_jsonl(self.folder / name / "answers.jsonl", rows)
        described = {"selector": values["selector"], "seed": int(values["seed"]), "model": "m"}
        EvalMetrics(
            target_loss=float(loss.mean()), rows=8, tokens=32, answers_right=None, eval_fingerprint="e", **described
        ).write(self.folder / name / "metrics.json")
        return None


def lines(folder) -> list[dict]:
    return read_jsonl(folder / "race.jsonl")


def test_who_is_surely_behind_stops_and_random_rows_stay(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.race()
    first = sweep.trained[:8]
    assert first == [f"selector-{s}_seed-{k}@4" for s in LOSSES for k in (0, 1)], "4 = 2 + a quarter of 8 steps"
    kept = ("best", "near", "random")
    assert sweep.trained[8:14] == [f"selector-{s}_seed-{k}@10" for s in kept for k in (0, 1)]
    assert sweep.trained[14:] == [f"selector-{s}_seed-2@10" for s in kept]
    record = RaceRecord.read(tmp_path)
    assert [look.steps for look in record.looks] == [8 * 4, 6 * 6, 3 * 10]
    assert set(record.stopped("")) == {"worst"} and record.looks[-1].over == "all stages are done"
    assert record.place("")[-2:] == ["random", "worst"]
    why = stopped(tmp_path / "selector-worst_seed-1")
    assert why.startswith("stopped after stage 1 (step 4 of 10, 2 seeds): behind ") and " by +" in why
    assert stopped(tmp_path / "selector-near_seed-1") is None
    assert not (tmp_path / "selector-worst_seed-2").exists()


def test_the_report_has_its_place_and_the_cost(tmp_path):
    Sweep(tmp_path).race()
    record = RaceRecord.read(tmp_path)
    heads, cells = table([record])
    assert [row[2] for row in cells] == record.place("")
    last = dict(zip(heads, cells[-1], strict=True))
    assert (last["place"], last["selection"], last["seeds"], last["steps"]) == ("4", "worst", "2", "4 of 10")
    assert notes([record])[0].startswith("Race: 98 of the 120 steps of all runs (82%), ")


def test_a_race_for_each_target(tmp_path):
    """Two targets: in one of them nobody is behind."""
    sweep = Sweep(tmp_path, targets=("a", "b"))
    sweep.losses = dict.fromkeys(LOSSES, 1.0)
    looks = sweep.race()
    assert {look.race for look in looks} == {"a", "b"} and len(looks) == 6
    assert not any(look.stopped for look in looks)
    assert len(sweep.trained) == 2 * (8 + 8 + 4)


def test_the_best_one_alone_goes_on_until_the_verdict_is_there(tmp_path):
    """Three seeds are enough, so seeds 4 and 5 are not trained."""
    looks = Sweep(tmp_path, {"best": 1.0, "random": 1.5, "worst": 2.0}, seeds=5).race()
    assert looks[-1].over == "best alone is left, and it is better" and looks[-1].stage == 3
    assert RaceRecord.read(tmp_path).plan.level == pytest.approx(1 - 0.05 / 3), "looks at 3, 4 and 5 seeds"


def test_where_random_rows_lead_all_stop(tmp_path):
    looks = Sweep(tmp_path, {"near": 2.0, "worst": 2.1, "random": 1.0}).race()
    assert looks[-1].over == "no selection is left beside random rows" and len(looks) == 1
    assert RaceRecord.read(tmp_path).place("")[0] == "random"


@pytest.mark.parametrize(
    ("steps", "taken", "gave_way"), [(98, 98, 0), (97, 88, 2), (87, 76, 1), (76, 76, 1), (75, 0, 0)]
)
def test_no_stage_starts_that_does_not_fit(tmp_path, steps, taken, gave_way):
    """The first stage takes 8 x 4 = 32 steps; then the best one and random rows need 4 x 6 = 24 and 2 x 10 = 20 more.
    With near beside them these stages take 36 and 30. near gives way after the first stage, or after the second."""
    looks = Sweep(tmp_path).race(steps=steps)
    assert sum(look.steps for look in looks) == taken
    assert [look.stage - 1 for look in looks if look.cut] == [gave_way] * bool(gave_way)
    if gave_way == 1:
        last = next(name for look in looks for name in look.cut)
        why = stopped(tmp_path / f"selector-{last}_seed-0")
        assert "stopped after stage 1 (step 4 of 10, 2 seeds): no room in the budget, +" in why
        assert "which is not surely better" in why
    if not taken:
        undone = lines(tmp_path)[-1]["undone"]
        assert undone == (
            "race.steps=75 (0 steps and 0 s are spent) leaves no room for the next stage: 3 stages of 3 with 4 "
            "selections in 1 race left undone"
        )
        assert len(Sweep(tmp_path).race()) == 3, "the same command with more goes on"


def test_a_budget_may_be_a_share_of_the_sweeps_steps(tmp_path):
    """Of 4 x 3 x 10 = 120 steps."""
    assert sum(look.steps for look in Sweep(tmp_path).race(steps=0.7)) == 76


def test_warm_ups_that_are_shared_count_once(tmp_path):
    """Adapters are trained, so of 4 warm-ups of two steps a seed trains one."""
    sweep = Sweep(tmp_path)
    sweep.config = {**CONFIG, "finetuning": {"_target_": "peft.LoraConfig"}}
    looks = sweep.race()
    assert [look.steps for look in looks] == [32 - 2 * 3 * 2, 36, 30 - 2 * 2]
    assert RaceRecord.read(tmp_path).plan.steps == 120 - 3 * 3 * 2


def test_seconds_are_estimated_from_the_stages_before(tmp_path, monkeypatch):
    """The first stage takes 100 s for 32 steps: 270 s leave room for 54 more, and 56 are needed with near."""
    now = itertools.count(0, 100)
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    assert [len(look.cut) for look in Sweep(tmp_path).race(seconds=270)] == [0, 1]
    undone = "race.seconds=270 (56 steps and 200 s are spent) leaves no room for the next stage: 1 stage of 3"
    assert lines(tmp_path)[-1]["undone"].startswith(undone), "for 19.6 steps of 20"


@pytest.mark.parametrize("kills", [3, 8, 11, 16])
def test_a_killed_race_goes_on(tmp_path, kills):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    Sweep(tmp_path / "whole").race()
    sweep = Sweep(tmp_path / "killed", kills=kills)
    with pytest.raises(KeyboardInterrupt):
        sweep.race()
    with (tmp_path / "killed" / "race.jsonl").open("a") as file:
        file.write('{"race": "", "stage"')  # a line that was cut
    again = Sweep(tmp_path / "killed")
    again.race()
    stopped_before = {job for job in sweep.trained if not job.endswith("@10")}
    assert not stopped_before & set(again.trained), "what has stopped at its step is not trained again"

    def decided(name):
        return [{**line, "seconds": None} for line in lines(tmp_path / name)]

    assert decided("killed") == decided("whole")


def test_a_selection_that_fails_stops_alone(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.failing = "near_seed-1"
    looks = sweep.race()
    assert looks[0].stopped["near"] == "failed: no such column" and looks[-1].over == "all stages are done"
    assert stopped(tmp_path / "selector-near_seed-0").endswith("failed: no such column")
    again = Sweep(tmp_path)
    assert "near" in again.race()[-1].losses, "the same command tries it again"
    assert again.trained[0] == "selector-near_seed-1@4"


def test_runs_that_are_complete_are_not_compared_with_partial_ones(tmp_path):
    """An earlier sweep left worst complete: nothing is known of its fourth step."""
    whole = Sweep(tmp_path)
    for seed in range(3):
        whole.job(["sweeps=race", "selector=worst", f"seed={seed}"])
    first, second, _ = whole.race()
    assert "worst" not in first.losses and "worst" not in first.stopped
    assert "worst" in second.stopped


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"stages": [[0.5, 2, 1]]}, "race.stages has"),
        ({"stages": [[0.5, 2], [0.25, 2]]}, "no stage may be smaller"),
        ({"alpha": 0.1}, "is of another race (alpha was 0.05, now 0.1); set another sweep_name"),
    ],
)
def test_faults_are_said(tmp_path, options, fault):
    Sweep(tmp_path).race()
    with pytest.raises(UserError) as caught:
        Sweep(tmp_path).race(**options)
    assert fault in str(caught.value)


def test_a_race_needs_random_rows_and_rounds(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="needs selector=random, which stays in as the baseline"):
        Sweep(tmp_path, {"near": 1.0, "best": 1.0}).race()
    sweep = Sweep(tmp_path)
    monkeypatch.setattr(sweep, "compose", lambda words: (OmegaConf.create({"trainer": {}}), "a"))
    with pytest.raises(UserError, match="use trainer=dynamic_select"):
        sweep.race()
