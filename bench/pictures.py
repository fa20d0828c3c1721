"""The README's pictures of a report: python bench/pictures.py FOLDER (with FOLDER/report.html; needs Chromium)"""

import shutil
import sys
import time
from pathlib import Path

from selenium import webdriver

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
WIDTH, HEIGHT = 1100, 700
# what to scroll to, whether dark, and what is done there first
VIEWS = {
    "verdict": ("verdict", False, ""),
    "losses": ("losses", False, "document.querySelectorAll('#losses > div')[1].scrollIntoView(); scrollBy(0, -70)"),
    "map": ("map", True, "near.map.zoom(1.1)"),
    "queries": ("queries", False, ""),
    "answers": ("answers", False, ""),
}


def main(folder: Path) -> None:
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
    PICTURES.mkdir(exist_ok=True)
    for name, (section, dark, script) in VIEWS.items():
        driver.get(f"file://{(folder / 'report.html').resolve()}")
        if dark:
            driver.execute_script("document.getElementById('theme').click()")
        driver.execute_script(f"document.getElementById('{section}').scrollIntoView(); {script}")
        time.sleep(2)  # charts are drawn as they come into view
        driver.save_screenshot(str(PICTURES / f"{name}.png"))
        print(f"wrote {PICTURES / name}.png")
    driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
