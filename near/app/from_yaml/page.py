"""The tables of docs/from_dataflex.md, out of those that translate: python -m near keys."""

from collections.abc import Sequence

from near.app.from_yaml.components import MIXERS, PARAMS, WEIGHTERS
from near.app.from_yaml.keys import DATA, DYNAMIC, FAMILIES, FINETUNING, MERGE, MODEL, OFFLINE, TRAINING, Key
from near.app.pages import page_to_write
from near.common.files import aside

PAGE = "from_dataflex.md"

MARK = "<!-- What follows is written by python -m near keys -->\n"

SECTIONS = {
    "Model": MODEL,
    "Data": DATA,
    "Fine-tuning": FINETUNING,
    "DataFlex": DYNAMIC,
    "Training": TRAINING,
}


def tables() -> str:
    """All of them, as Markdown."""
    parts = [f"## {name}\n\n{_table(keys)}" for name, keys in SECTIONS.items()]
    parts.append("Every other field of transformers' `TrainingArguments` becomes `trainer.args.NAME`.")
    families = "\n".join(f"| `{start}...` | not honoured: {why} |" for start, why in FAMILIES.items())
    parts.append(f"By how they begin:\n\n| keys | |\n|---|---|\n{families}")
    for kind, table in (("selectors", PARAMS), ("weighters", WEIGHTERS), ("mixers", MIXERS)):
        flat = {f"{name}: {key}": value for name, keys in table.items() for key, value in keys.items()}
        parts.append(f"## components.yaml: {kind}\n\n{_table(flat)}")
    parts += [f"## merge.py\n\n{_table(MERGE)}", f"## select.py, of DataFlex's offline NEAR\n\n{_table(OFFLINE)}"]
    return "\n\n".join(parts) + "\n"


def _table(keys: dict[str, Key]) -> str:
    lines = [f"| `{name}` | {_becomes(key)} |" for name, key in keys.items()]
    return "\n".join(["| key | becomes |", "|---|---|", *lines])


def _becomes(key: Key) -> str:
    if key.becomes:
        option = not set(key.becomes) & set(" ,;(")
        return f"`{key.becomes}`" if option else key.becomes.replace("*", "\\*")
    return f"nothing: {key.needless}" if key.needless else f"not honoured: {key.reason}"


def main(words: Sequence[str] = ()) -> None:
    """Write the tables into the page. It takes no words."""
    path = page_to_write(PAGE)
    text = path.read_text(encoding="utf-8").split(MARK)[0] + MARK + "\n" + tables()
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
