"""The README's pictures of a report; needs Chromium with its driver, and selenium.

python bench/pictures.py FOLDER [into=docs/pictures]    (a folder with report.html)
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

import importlib.util
import shutil
import time

from bench import common
from near.common.errors import UserError

WIDTH, HEIGHT = 1100, 700
# name: (section to scroll to, dark, script to run first)
VIEWS = {
    "verdict": ("verdict", False, ""),
    "losses": ("losses", False, "document.querySelectorAll('#losses > div')[1].scrollIntoView(); scrollBy(0, -70)"),
    "map": ("map", True, "near.map.zoom(1.1)"),
    "queries": ("queries", False, ""),
    "answers": ("answers", False, ""),
}


def missing() -> str | None:
    """The message about missing programs or packages, or None."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed: pip install -e '.[dev]'"
    programs = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(programs)} not found: `make test-browser` installs them" if programs else None


def main(folder: str, into: str = "docs/pictures") -> None:
    report, pictures = Path(folder) / "report.html", common.ROOT / into
    if not report.is_file():
        raise UserError(f"{report}: no such file; python report.py runs={folder} writes it")
    if lacking := missing():
        raise UserError(lacking)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    screen = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1.5, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    pictures.mkdir(parents=True, exist_ok=True)
    for name, (section, dark, script) in VIEWS.items():
        driver.get(f"file://{report.resolve()}")
        if dark:
            driver.execute_script("document.getElementById('theme').click()")
        driver.execute_script(f"document.getElementById('{section}').scrollIntoView(); {script}")
        time.sleep(2)  # charts are drawn as they come into view
        driver.save_screenshot(str(pictures / f"{name}.png"))
        print(f"wrote {pictures / name}.png")
    driver.quit()


if __name__ == "__main__":
    common.script(main)
