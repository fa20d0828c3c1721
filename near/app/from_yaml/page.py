"""The tables of docs/from_dataflex.md, made from the tables of the translation: python -m near keys."""

from collections.abc import Sequence

from near.app.from_yaml.keys import COMPONENTS, FAMILIES, MERGE, OFFLINE, TRAIN, Key
from near.app.pages import page_to_write
from near.common.files import aside

PAGE = "from_dataflex.md"

MARK = "<!-- What follows is written by python -m near keys -->\n"


def tables() -> str:
    """All tables, as Markdown."""
    parts = [f"## train.py\n\n{_table(TRAIN)}"]
    parts.append("Every other field of transformers' `TrainingArguments` becomes `trainer.args.NAME`.")
    families = {f"{start}...": Key(reason=why) for start, why in FAMILIES.items()}
    parts.append(f"By the start of their names:\n\n{_table(families)}")
    for kind, components in COMPONENTS.items():
        flat = {f"{name}: {key}": value for name, keys in components.items() for key, value in keys.items()}
        parts.append(f"## components.yaml: {kind}\n\n{_table(flat)}")
    parts += [f"## merge.py\n\n{_table(MERGE)}", f"## select.py, of DataFlex's offline NEAR\n\n{_table(OFFLINE)}"]
    return "\n\n".join(parts) + "\n"


def _table(keys: dict[str, Key]) -> str:
    """A row for each key that is translated, and one for each reason that keys share."""
    rows: dict[str, list[str]] = {}
    for name, key in keys.items():
        rows.setdefault(name if key.becomes else _outcome(key), []).append(name)
    lines = [f"| {', '.join(f'`{name}`' for name in names)} | {_outcome(keys[names[0]])} |" for names in rows.values()]
    return "\n".join(["| key | becomes |", "|---|---|", *lines])


def _outcome(key: Key) -> str:
    if key.becomes:
        option = not set(key.becomes) & set(" ,;(")
        return f"`{key.becomes}`" if option else key.becomes.replace("*", "\\*")
    return f"nothing: {key.needless}" if key.needless else f"not honoured: {key.reason}"


def main(words: Sequence[str] = ()) -> None:
    """Write the tables into the page. `words` are ignored."""
    path = page_to_write(PAGE)
    text = path.read_text(encoding="utf-8").split(MARK)[0] + MARK + "\n" + tables()
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
