"""The page in headless Chromium, over real runs on a pool of 20,000 rows: clicked, typed into, dragged and measured."""

import json
import os
import random
import time
from pathlib import Path

import pytest

from tests.chromium import opened
from tests.conftest import configured, report

pytestmark = pytest.mark.browser

ROWS = 20_000
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
PAN = """
const done = arguments[arguments.length - 1], canvas = document.getElementById("map-canvas");
const box = canvas.getBoundingClientRect(), times = [];
const fire = (type, x, y) =>
  canvas.dispatchEvent(new PointerEvent(type, {pointerId: 1, clientX: x, clientY: y, bubbles: true}));
canvas.setPointerCapture = () => {};
fire("pointerdown", box.left + 300, box.top + 300);
let n = 0, last = performance.now();
const step = (now) => {
  times.push(now - last); last = now;
  if (++n > 120) { fire("pointercancel", 0, 0); done(times.slice(1)); return; }
  fire("pointermove", box.left + 300 + 150 * Math.sin(n / 15), box.top + 300 + 100 * Math.cos(n / 20));
  requestAnimationFrame(step);
};
requestAnimationFrame(step);
"""


def rows(count: int, seed: int, topic: str | None = None):
    words = {t: [f"{t}{i}" for i in range(80)] for t in ("law", "maths", "code", "health", "poem", "farm")}
    rng = random.Random(seed)
    for i in range(count):
        of = topic or rng.choice(list(words))
        prompt = " ".join(rng.choices(words[of], k=30))
        yield {"instruction": f"{prompt} item {i}", "output": " ".join(rng.choices(words[of], k=10)), "domain": of}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two selections with two seeds, a job that failed, and their report."""
    from near.training.train import train

    folder = tmp_path_factory.mktemp("page")
    pool = [json.dumps(row) + "\n" for row in rows(ROWS, 1)]
    hostile = {"instruction": f"law1 law2 law3 {HOSTILE} needle", "output": HOSTILE, "domain": HOSTILE}
    pool[7] = json.dumps(hostile) + "\n"
    pool[8] = (
        json.dumps({"instruction": "写一首诗 law1 law2", "output": "床前明月光", "domain": "诗"}, ensure_ascii=False)
        + "\n"
    )
    (folder / "pool.jsonl").write_text("".join(pool))
    queries = [{"instruction": f"law1 law2 law3 {HOSTILE} asked", "output": "x"}, *rows(30, 2, "law")]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(8, 3, "law")))
    made = folder / "runs"
    for selector in ("near", "random"):
        for seed in (1, 2):
            train(
                configured(
                    "train",
                    "data=files",
                    *(f"data.{k}.path={folder / f}.jsonl" for k, f in (("candidates", "pool"), ("queries", "queries"))),
                    f"data.eval.path={folder / 'eval.jsonl'}",
                    "data.candidates.columns.source=domain",
                    "data.cutoff_len=64",
                    f"cache_dir={folder / 'cache'}",
                    "embedder=hashing",
                    "max_K=50",
                    "model=tiny",
                    f"selector={selector}",
                    f"seed={seed}",
                    "trainer.warmup_step=2",
                    "trainer.update_step=8",
                    "trainer.update_times=2",
                    "trainer.args.per_device_train_batch_size=8",
                    "trainer.args.gradient_accumulation_steps=1",
                    "evaluation.max_new_tokens=4",
                ),
                made / f"{selector}-{seed}",
            )
    (made / ".jobs").mkdir()
    (made / ".jobs" / "lost.json").write_text(json.dumps({"state": "failed", "error": f"no such row {HOSTILE}"}))
    report(configured("report", f"runs={made}", "map=pca"), made)
    return made


@pytest.fixture(scope="module")
def browser(runs):
    with opened(runs / "report.html", 1280, 900) as driver:
        yield driver


@pytest.fixture()
def page(browser):
    """The page as it was opened."""
    browser.refresh()
    return browser


def by(page, selector: str):
    return page.find_elements("css selector", selector)


def see(page, selector: str) -> None:
    page.execute_script("document.querySelector(arguments[0]).scrollIntoView()", selector)


def until(condition, seconds: float = 20):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)
    return result


def test_nothing_is_fetched_and_nothing_of_the_data_runs(page):
    for section in ("losses", "rows", "map", "queries", "answers", "compared"):
        see(page, f"#{section}")
        time.sleep(0.3)
    assert page.execute_script("return window.hacked") is None
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []
    assert HOSTILE in by(page, "#verdict .unfinished")[0].text  # a failed job's error, as text
    assert by(page, ".state")[0].text == "failed"


def test_the_verdict_and_its_charts(page):
    assert "2 seeds are too few" in by(page, "#answer")[0].text
    until(lambda: by(page, "#verdict .main-svg"))
    details = by(page, "#verdict .chart + details")[0]
    page.execute_script("arguments[0].open = true", details)
    until(lambda: "near" in details.text and " to " in details.text)
    table = by(page, "#verdict > .wide table")[0].text
    assert "near" in table and "random" in table and "vs. random" in table
    assert by(page, "td.better, td.worse") == [], "two seeds give no verdict in colour"
    see(page, "#losses")
    until(lambda: by(page, "#losses .main-svg"))
    details = by(page, "#losses details")[0]
    details.find_element("css selector", "summary").click()
    until(lambda: details.find_elements("css selector", "td"))
    assert len(by(page, "#losses .chart")) == 3 and len(by(page, "#rows .chart")) == 3


def test_every_table_can_be_read_at_1280_pixels(page):
    for details in by(page, "details"):
        page.execute_script("arguments[0].open = true", details)
    assert page.execute_script("return innerWidth") <= 1280
    wide = "return [...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth).length"
    assert page.execute_script(wide) == 0


def test_a_source_has_one_colour_in_bars_and_map(page):
    bars, map = page.execute_script("return [near.data.charts.sources, near.data.map.sources]")
    colours = dict(map)
    shown = {(bar["name"], bar["marker"]["color"]) for chart in bars for bar in chart["data"] if "&" not in bar["name"]}
    assert shown and all(colours[name] == colour for name, colour in shown)
    assert len(set(colours.values())) == len(colours)


def test_queries_are_searched_and_opened(page):
    see(page, "#queries")
    assert len(by(page, "#query-list li")) == 31
    assert HOSTILE in by(page, "#query")[0].text  # the first query, as text
    by(page, "#search")[0].send_keys("needle")
    until(lambda: len(by(page, "#query-list li")) < 31)
    assert by(page, "#query mark")[0].text == "needle"
    assert "row 7," in by(page, "#query")[0].text
    by(page, "#search")[0].clear()
    by(page, "#search")[0].send_keys("no such words")
    until(lambda: by(page, "#count")[0].text.startswith("0 of 31"))
    page.refresh()
    see(page, "#queries")
    by(page, "#query-list li")[3].click()
    before = by(page, "#query")[0].text
    page.execute_script("document.getElementById('query-list').focus()")
    page.switch_to.active_element.send_keys("\ue015")  # arrow down
    until(lambda: by(page, "#query")[0].text != before)
    assert by(page, "#query .badge")[0].text.startswith("near"), "rows name who trained on them"
    by(page, "#only")[0].click()
    shown = by(page, "#query .row:not(.quote)")
    assert shown and all("seeds" in row.text for row in shown)


def test_the_map_moves_by_keys_and_tells_rows(page):
    see(page, "#map")
    canvas = by(page, "#map-canvas")[0]
    page.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys("\ue014")  # arrow right
    canvas.send_keys("+")
    x, scale = page.execute_script("return [near.map.view.x, near.map.view.scale]")
    assert x > 0 and scale > 1
    canvas.send_keys("\ue007")  # enter: the row in the middle
    tip = by(page, "#map-tip")[0]
    assert tip.is_displayed() and tip.text.startswith("row ")
    canvas.send_keys("\ue00c")  # escape
    assert not tip.is_displayed()
    canvas.send_keys("0")
    assert page.execute_script("return near.map.view.scale") == 1
    chip = by(page, "#map-taken button")[0]
    assert chip.text.startswith("near: ") and chip.get_attribute("aria-pressed") == "true"
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    page.execute_script("document.querySelector('[data-zoom]').click()")
    assert page.execute_script("return near.map.view.scale") == 1.5


def test_answers_stand_beside_the_reference(page):
    see(page, "#answers")
    assert [e.text for e in by(page, "#answer-list .row:first-child strong")][:2] == ["reference", "base"]
    assert len(by(page, "#answer-list .row")) == 8
    assert [o.text for o in by(page, "#seed option")] == ["1", "2"]


def test_light_dark_and_a_phone(page):
    root = page.find_element("css selector", "html")
    before, back = root.get_attribute("data-theme"), root.value_of_css_property("background-color")
    colour = by(page, "body")[0].value_of_css_property("background-color")
    by(page, "#theme")[0].click()
    assert root.get_attribute("data-theme") != before
    assert by(page, "body")[0].value_of_css_property("background-color") != colour, back
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    page.refresh()
    for section in ("losses", "rows", "map", "queries", "answers", "compared"):
        see(page, f"#{section}")
        time.sleep(0.3)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_weight_and_frames(page, runs, capfd):
    """Prints the figures; only the weight decides."""
    see(page, "#map")
    time.sleep(1)
    times = sorted(page.execute_async_script(PAN))
    weight = os.path.getsize(runs / "report.html") / 1e6
    shown = page.execute_script("return near.data.map.text.length")
    with capfd.disabled():
        print(
            f"\nreport of {shown} pool rows: {weight:.1f} MB; panning over {len(times)} frames, in ms: "
            f"median {times[len(times) // 2]:.1f}, 95% within {times[int(len(times) * 0.95)]:.1f}, "
            f"longest {times[-1]:.1f} (headless Chromium, software rendering)"
        )
    assert shown == ROWS and weight < 15
