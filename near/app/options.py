"""The page of every option, made from the lines and comments of the configurations: python -m near options"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from near.app.check.option_types import BASE, NUMBERS, SCRIPTS, Type, typed
from near.app.pages import page_to_write
from near.common.bounds import BILLION
from near.common.config import CONF
from near.common.files import aside

PAGE = "options.md"

VALUE = r"""(?P<value>(?: +(?:'[^']*'|"[^"]*"|(?!#)\S.*?))?)"""

ENTRY = re.compile(rf"^(?P<indent> *)(?P<key>[\w.@/]+):{VALUE}(?: +# ?(?P<comment>.*))?$")

# Keyword arguments of other libraries, which describe them
FOREIGN = re.compile(
    r"trainer\.args\.|finetuning\.|parallel\.(deepspeed|fsdp)|model\.quantization\.|hydra\.(sweeper|launcher)\."
)

Row = tuple[str, str, str, str]  # name, value, choices and bounds, comment

EVAL_SOURCE = "data/source=eval"
SOURCES = re.compile(r"data\.(candidates|queries|eval)(\.|$)")  # described once, under data/source

HEAD = """# Every option

Made from the configurations in `conf/` by `python -m near options`; a test compares them. Type an option as
`NAME=VALUE` behind a script, a choice of a group as `GROUP=CHOICE`. `--cfg job` prints the resulting configuration.
`trainer.args.*` are transformers' `TrainingArguments`, `finetuning.*` peft's `LoraConfig`, `parallel.deepspeed.*`
DeepSpeed's options: this page lists those whose value is set here; add any other with `+`, as in
`+trainer.args.weight_decay=0.01`. `may be` shows an option's choices and bounds, as the source has them.
"""


@dataclass
class Option:
    """A key of one file: its dotted name, its value as written, its comment, and its choices and bounds."""

    name: str
    value: str
    comment: str
    allowed: str


@dataclass
class OptionsFile:
    """`opening`: the comment lines at its head."""

    opening: list[str]
    options: list[Option] = field(default_factory=list)


def read(path: Path, prefix: str = "") -> OptionsFile:
    """The options of one YAML of conf/, without Hydra's keys (defaults, hydra). An option without a comment gets its
    parent's.

    Args:
        path: of the file.
        prefix: in front of the names, unless the file also sets options of other groups.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    start = () if not prefix or "# @package _global_" in lines[:head] else (prefix,)
    file = OptionsFile([line.lstrip("# ").rstrip() for line in lines[:head] if not line.startswith("# @")])
    declared = _declared("" if prefix else path.stem)
    types = {} if prefix.startswith("hydra") else declared | dict(typed(_written(path), ".".join(start)))
    parents: list[str] = []
    comments: list[str] = []
    for line in lines[head:]:
        entry = ENTRY.match(line)
        if not entry:
            continue
        depth = len(entry["indent"]) // 2
        comment = (entry["comment"] or "").strip() or (comments[depth - 1] if depth else "")
        parents, comments = [*parents[:depth], entry["key"]], [*comments[:depth], comment]
        if parents[0] in ("defaults", "hydra") or entry["key"].startswith("_"):
            continue
        if value := entry["value"].strip():
            name = ".".join((*start, *parents))
            file.options.append(Option(name, value, comment, _allowed(types.get(name, Type()))))
    return file


@functools.cache
def _declared(script: str) -> dict[str, Type]:
    """The types of the options that belong to a script, not to a group's class; of another file those of all."""
    targets = [SCRIPTS[script]] if script in SCRIPTS else SCRIPTS.values()
    return {name: kind for target in (BASE, *targets) for name, kind in typed({}, target=target)}


def _written(path: Path) -> dict:
    """The options of one YAML, with those of the file that it extends."""
    node = dict(OmegaConf.to_container(OmegaConf.load(path)))
    names = [name for name in node.pop("defaults", []) if isinstance(name, str) and name != "_self_"]
    files = [path.with_name(f"{name}.yaml") for name in names]
    return OmegaConf.to_container(OmegaConf.merge(*(_written(file) for file in files if file.is_file()), node))


def _allowed(kind: Type) -> str:
    """The choices and bounds of an option; empty where it has none."""
    parts = [f"`{choice}`" for choice in kind.choices]
    for name, bounds in kind.bounds:
        ends = f">={bounds.least}" if bounds.least is not None and bounds.most == BILLION else str(bounds)
        parts.append(f"{'whole number' if name == 'int' else 'number'} {ends}")
    if kind.bounds[1:] and len({bounds for _, bounds in kind.bounds}) == 1:
        parts = [*parts[: -len(kind.bounds)], parts[-1].removeprefix("whole ")]
    if kind.element and kind.element.names & NUMBERS.keys():
        parts.append(f"each a {_allowed(kind.element)}")
    return ", ".join([*parts, *(["null"] if parts and "None" in kind.names else [])])


def groups() -> dict[str, dict[str, OptionsFile]]:
    """The choices of every group by name, without sweeps and experiments, which set options of other groups."""
    result: dict[str, dict[str, OptionsFile]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = str(path.parent.relative_to(CONF))
        if group != "." and group.split("/")[0] not in ("sweeps", "experiment", "hydra"):
            parts = {"data/source": "data.candidates", "stage": f"plan.{path.stem}"}
            prefix = parts.get(group, group.replace("/", "."))
            if (group, path.stem) == ("data/source", "eval"):  # the same with options that eval rows alone have
                group, prefix = EVAL_SOURCE, "data.eval"
            result.setdefault(group, {})[path.stem] = read(path, prefix)
    return result


def page() -> str:
    """The whole of docs/options.md."""
    return "\n".join([HEAD, *_scripts(), *_groups(), *_launchers()])


def _scripts() -> Iterator[str]:
    yield "## In every script\n"
    yield from _table(_rows(read(CONF / "base.yaml")))
    for name in SCRIPTS:
        file = read(CONF / f"{name}.yaml")
        yield f"## {f'{name}.py' if (CONF.parent / f'{name}.py').is_file() else f'near {name}'}\n"
        yield "```bash\n" + "\n".join(file.opening) + "\n```\n"
        yield from _table(_rows(file))


def _rows(file: OptionsFile) -> list[Row]:
    return [(o.name, _code(o.value), o.allowed, o.comment) for o in file.options]


def _groups() -> Iterator[str]:
    for group, choices in groups().items():
        yield f"## {group}\n"
        for name, file in choices.items():
            yield f"- `{name}`: {_opening(file)}"
        source = group in ("data/source", EVAL_SOURCE)
        yield "\nThe same for `data.queries` and `data.eval`.\n" if group == "data/source" else ""
        yield from _table([row for row in merged(choices) if source or not SOURCES.match(row[0])])


def _launchers() -> Iterator[str]:
    for folder in sorted((CONF / "hydra").iterdir()):
        for path in sorted(folder.glob("*.yaml")):
            file = read(path, f"hydra.{folder.name}")
            yield f"## hydra/{folder.name}={path.stem}\n"
            yield _opening(file) + "\n"
            yield from _table(_rows(file))


def _opening(file: OptionsFile) -> str:
    """The command that runs it, and the file's description."""
    command, _, more = (file.opening or [""])[0].partition(" (")
    text = ([more.removesuffix(")")] if more else []) + file.opening[1:]
    return f"{_code(command)} {_escaped(' '.join(text))}".rstrip()


def merged(choices: dict[str, OptionsFile]) -> list[Row]:
    """Every option of a group's choices: name, value, choices and bounds, comment."""
    order: dict[str, dict[str, Option]] = {}
    for choice, file in choices.items():
        for option in file.options:
            order.setdefault(option.name, {})[choice] = option
    rows = []
    for name, of in order.items():
        everywhere = len(of) == len(choices)
        values = _by_choice({choice: _code(option.value) for choice, option in of.items()}, everywhere)
        allowed = _by_choice({choice: option.allowed for choice, option in of.items() if option.allowed}, True)
        rows.append((name, values, allowed, _commonest(option.comment for option in of.values())))
    return rows


def _commonest(comments: Iterable[str]) -> str:
    """The comment that most choices have; of several the longest."""
    counts = Counter(comment for comment in comments if comment)
    return max(counts, key=lambda comment: (counts[comment], len(comment)), default="")


def _by_choice(cells: dict[str, str], everywhere: bool) -> str:
    """One cell for several choices, which are named where they differ or not all of them have it."""
    by_cell: dict[str, list[str]] = {}
    for choice, cell in cells.items():
        by_cell.setdefault(cell, []).append(choice)
    if len(by_cell) == 1 and everywhere:
        return next(iter(by_cell))
    return ", ".join(f"{cell} ({', '.join(choices)})" for cell, choices in by_cell.items())


def _table(rows: list[Row]) -> Iterator[str]:
    if not rows:
        return
    yield "| option | value | may be | what |\n|---|---|---|---|"
    for name, value, allowed, comment in rows:
        yield f"| `{name}` | {value} | {_escaped(allowed)} | {_escaped(comment)} |"
    yield ""


def _code(value: str) -> str:
    return f"`{value}`".replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(words: Sequence[str] = ()) -> None:
    """Write the page. `words` are ignored."""
    path = page_to_write(PAGE)
    with aside(path) as temporary:
        temporary.write_text(page(), encoding="utf-8")
    print(f"wrote {path}")
