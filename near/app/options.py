"""The page of every option, made from the configurations' own lines and comments: python -m near options"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from near.app.pages import page_to_write
from near.common.config import CONF
from near.common.files import aside

SCRIPTS = ("select", "train", "merge", "eval", "report")
PAGE = "options.md"
VALUE = r"""(?P<value>(?: +(?:'[^']*'|"[^"]*"|(?!#)\S.*?))?)"""
ENTRY = re.compile(rf"^(?P<indent> *)(?P<key>[\w.@/]+):{VALUE}(?: +# ?(?P<told>.*))?$")
# Keyword arguments of other libraries, described there
FOREIGN = re.compile(
    r"trainer\.args\.|finetuning\.|parallel\.(deepspeed|fsdp)|model\.quantization\.|hydra\.(sweeper|launcher)\."
)
SOURCES = re.compile(r"data\.(candidates|queries|eval)(\.|$)")  # described once, in the group data/source
HEAD = """# Every option

Made from the configurations in `conf/` by `python -m near options`; a test holds it to them. An option is typed as
`NAME=VALUE` behind a script, a choice of a group as `GROUP=CHOICE`. `--cfg job` prints what a command comes to.
`trainer.args.*` are transformers' `TrainingArguments`, `finetuning.*` peft's `LoraConfig`, `parallel.deepspeed.*`
DeepSpeed's own options: listed are those that have a value of their own here; any other is added with `+`, as in
`+trainer.args.weight_decay=0.01`.
"""


@dataclass
class Option:
    """A key of one file: its dotted name, value as it is written, and comment."""

    name: str
    value: str
    told: str


@dataclass
class File:
    """`opening`: the comment lines at its head."""

    opening: list[str]
    options: list[Option] = field(default_factory=list)


def read(path: Path, prefix: str = "") -> File:
    """The options of one YAML of conf/, their names behind `prefix` unless it sets options of other groups too. What
    Hydra is told (defaults, hydra) is left out; an option without a comment has its parent's."""
    lines = path.read_text(encoding="utf-8").split("\n")
    head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    start = () if not prefix or "# @package _global_" in lines[:head] else (prefix,)
    file = File([line.lstrip("# ").rstrip() for line in lines[:head] if not line.startswith("# @")])
    parents: list[str] = []
    comments: list[str] = []
    for line in lines[head:]:
        found = ENTRY.match(line)
        if not found:
            continue
        depth = len(found["indent"]) // 2
        told = (found["told"] or "").strip() or (comments[depth - 1] if depth else "")
        parents, comments = [*parents[:depth], found["key"]], [*comments[:depth], told]
        if parents[0] in ("defaults", "hydra") or found["key"].startswith("_"):
            continue
        if value := found["value"].strip():
            file.options.append(Option(".".join((*start, *parents)), value, told))
    return file


def groups() -> dict[str, dict[str, File]]:
    """All groups of conf/ but the sweeps and experiments, which set options of the others: choices by name."""
    found: dict[str, dict[str, File]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = str(path.parent.relative_to(CONF))
        if group != "." and group.split("/")[0] not in ("sweeps", "experiment", "hydra"):
            prefix = "data.candidates" if group == "data/source" else group.replace("/", ".")
            found.setdefault(group, {})[path.stem] = read(path, prefix)
    return found


def page() -> str:
    """The whole of docs/options.md."""
    return "\n".join([HEAD, *_scripts(), *_groups(), *_launchers()])


def _scripts() -> Iterator[str]:
    yield "## In every script\n"
    yield from _table([(o.name, _code(o.value), o.told) for o in read(CONF / "base.yaml").options])
    for name in SCRIPTS:
        file = read(CONF / f"{name}.yaml")
        yield f"## {name}.py\n"
        yield "```bash\n" + "\n".join(file.opening) + "\n```\n"
        yield from _table([(o.name, _code(o.value), o.told) for o in file.options])


def _groups() -> Iterator[str]:
    for group, choices in groups().items():
        yield f"## {group}\n"
        for name, file in choices.items():
            yield f"- `{name}`: {_opening(file)}"
        source = group == "data/source"
        yield "\nThe same for `data.queries` and `data.eval`.\n" if source else ""
        yield from _table([row for row in merged(choices) if source or not SOURCES.match(row[0])])


def _launchers() -> Iterator[str]:
    for folder in sorted((CONF / "hydra").iterdir()):
        for path in sorted(folder.glob("*.yaml")):
            file = read(path, f"hydra.{folder.name}")
            yield f"## hydra/{folder.name}={path.stem}\n"
            yield _opening(file) + "\n"
            yield from _table([(o.name, _code(o.value), o.told) for o in file.options])


def _opening(file: File) -> str:
    """The command that runs it, and what the file says of it."""
    command, _, more = (file.opening or [""])[0].partition(" (")
    told = ([more.removesuffix(")")] if more else []) + file.opening[1:]
    return f"{_code(command)} {_escaped(' '.join(told))}".rstrip()


def merged(choices: dict[str, File]) -> list[tuple[str, str, str]]:
    """Every option of a group's choices: name, value (with the choices that have it, where they differ), comment."""
    order: dict[str, dict[str, Option]] = {}
    for choice, file in choices.items():
        for option in file.options:
            order.setdefault(option.name, {})[choice] = option
    rows = []
    for name, of in order.items():
        values: dict[str, list[str]] = {}
        for choice, option in of.items():
            values.setdefault(option.value, []).append(choice)
        told = max((option.told for option in of.values()), key=len)
        everywhere = len(values) == 1 and len(of) == len(choices)
        shown = [_code(v) if everywhere else f"{_code(v)} ({', '.join(c)})" for v, c in values.items()]
        rows.append((name, ", ".join(shown), told))
    return rows


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    if not rows:
        return
    yield "| option | value | what |\n|---|---|---|"
    for name, value, told in rows:
        yield f"| `{name}` | {value} | {_escaped(told)} |"
    yield ""


def _code(value: str) -> str:
    return f"`{value}`".replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(words: Sequence[str] = ()) -> None:
    """Write the page. It takes no words."""
    path = page_to_write(PAGE)
    with aside(path) as temporary:
        temporary.write_text(page(), encoding="utf-8")
    print(f"wrote {path}")
