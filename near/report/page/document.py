"""An HTML document out of a template (static/*.html), with the data of its scripts.

Names and texts of data and configurations never become markup: the template escapes what it shows, and the rest is JSON
in a block that no browser runs, which the scripts put on the page as text. A content security policy lets the page's
own scripts run, and nothing be fetched.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

STATIC = Path(__file__).parent / "static"
LIMIT = 9_000_000  # characters of data beside the charts' library; texts are cut shorter until they fit
INTERVAL = re.compile(r"(\[[^\]]*\] (?:seeds|examples))")

ENVIRONMENT = Environment(
    loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters["at_intervals"] = INTERVAL.split  # every second part is an interval


def document(template: str, scripts: tuple[str, ...], data: Callable[[float], dict], **values: object) -> str:
    """The document.

    Args:
        template: its name in static/.
        scripts: names in static/, after page.js and charts.js.
        data: what the scripts read, with texts cut to a share of their usual length.
        values: of the template.
    """
    for share in (1.0, 0.5, 0.25, 0.1):
        text = _json(data(share))
        if len(text) <= LIMIT:
            break
    sources = [get_plotlyjs(), *map(_static, ("page.js", "charts.js", *scripts))]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in sources]
    style = _static("page.css")
    return ENVIRONMENT.get_template(template).render(data=text, scripts=sources, digests=digests, style=style, **values)


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON for a script block: no text in it can end the block."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
