"""selection.html in headless Chromium, as wide as a laptop's screen."""

import time

import pytest

from near.report.page.selection import write_page
from near.selection.select import select
from tests.chromium import opened
from tests.conftest import configured, write_rows

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def test_the_page_of_a_selection_is_read_on_a_laptop(tmp_path):
    skills = ["sort", "reverse", "upper case", "initials", HOSTILE, "a" * 60, "count", "first", "last"]
    pool = [
        {"instruction": f"{skill} the words w{i} w{i + 1}", "output": f"x{i}", "skill": skill, "wording": i % 7}
        for i, skill in enumerate(skills * 30)
    ]
    queries = [{"instruction": f"sort the words w{i} v{i}", "output": "y", "skill": "sort"} for i in range(12)]
    write_rows(tmp_path / "pool.jsonl", pool)
    write_rows(tmp_path / "q.jsonl", queries)
    cfg = configured(
        "select",
        *("data=files", f"data.candidates.path={tmp_path}/pool.jsonl", f"data.queries.path={tmp_path}/q.jsonl"),
        *("data.candidates.columns.source=skill", "data.labels=[skill,wording]", "embedder=hashing"),
        *(f"cache_dir={tmp_path}/cache", "selector=near", "n=30", "max_K=30", "map=pca", "page=true"),
    )
    write_page(cfg, tmp_path / "out", select(cfg, tmp_path / "out"))
    with opened(tmp_path / "out" / "selection.html", 1366, 768) as page:
        for section in ("labels", "scores", "queries", "map", "hubs", "suspects", "reach", "settings"):
            page.execute_script("document.getElementById(arguments[0]).scrollIntoView()", section)
            time.sleep(0.3)
        for details in page.find_elements("css selector", "details"):
            page.execute_script("arguments[0].open = true", details)
        assert [line for line in page.get_log("browser") if line["level"] == "SEVERE"] == []
        assert page.execute_script("return window.hacked") is None
        assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        wide = "return [...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth).length"
        assert page.execute_script(wide) == 0
        assert len(page.find_elements("css selector", "#labels .main-svg")) >= 3
        assert len(page.find_elements("css selector", "#query-list li")) == 12
        page.execute_script("document.getElementById('queries').scrollIntoView()")
        page.find_element("css selector", "#query-list li:nth-child(3)").click()
        assert page.find_elements("css selector", "#query .badge")[0].text == "near"
        assert page.find_element("css selector", "#map-taken button").text == "near: 30 rows picked"
