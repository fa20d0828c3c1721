"""The report of many targets in headless Chromium, as wide as a laptop's screen."""

import pytest
from omegaconf import OmegaConf

from near.common.config import CONF
from near.report.report import report
from tests.chromium import opened
from tests.report.test_targets import run

pytestmark = pytest.mark.browser

SELECTORS = ("near", "near_rds", "tsds", "uot", "less", "oracle", "queries", "doubly_greedy")
TARGETS = ("sort-0", "by_length-1", "reverse-2", "every_second-3", "swap_ends-4", "initials-5")
TARGETS += ("upper-6", "last-7", "count-8", "unique-9")


def test_ten_targets_and_eight_selectors_are_read_on_a_laptop(tmp_path):
    for place, target in enumerate(TARGETS):
        for seed in (1, 2, 3):
            run(tmp_path, "random", target, seed, 2.0 + seed / 50)
            for number, name in enumerate(SELECTORS):
                run(tmp_path, name, target, seed, 2.0 + (number - 4) * place / 60 + seed / 45)
    cfg = OmegaConf.load(CONF / "report.yaml")
    cfg.runs, cfg.map = str(tmp_path), None
    report(cfg, tmp_path, lambda folder: OmegaConf.create())
    with opened(tmp_path / "report.html", 1366, 768) as page:
        assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []
        assert page.find_element("css selector", "#answer").text.startswith("Over 10 targets: ")
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        wide = "[...document.querySelectorAll('#verdict > .wide')].filter((e) => e.scrollWidth > e.clientWidth)"
        assert page.execute_script(f"return {wide}.length") == 0
        box = page.find_element("css selector", "[data-charts=targets] .main-svg").rect
        assert box["width"] <= 1366 and box["height"] <= 768
        map = "[data-charts=targets]"
        cells = page.find_elements("css selector", f"{map} .heatmaplayer text, {map} .heatmap-label")
        texts = [cell.text for cell in cells if cell.text]
        assert len(texts) >= len(TARGETS) * (len(SELECTORS) + 1)
        labels = [e.text for e in page.find_elements("css selector", "[data-charts=targets] .ytick text")]
        assert labels == list(TARGETS)
