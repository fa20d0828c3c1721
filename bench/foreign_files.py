"""What becomes of other systems' files: how many run, and why others are refused.

python bench/foreign_files.py LLaMA-Factory/examples DataFlex/examples     the table of docs/from_dataflex.md
... lines=true                                                             and the notes on each file
python bench/foreign_files.py LLaMA-Factory DataFlex keys=true             keys and defaults that differ from ours

Nothing is trained and nothing fetched: a file runs where its translation composes and passes the check of the
configuration. Models and data of a hub are taken as they are named.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # in place of this folder, whose select.py hides another

import ast
import collections
import contextlib
import importlib.util
import re

from omegaconf import DictConfig

from bench import common
from near.app.check.check import check
from near.app.from_yaml.defaults import groups, same
from near.app.from_yaml.expanded import translated
from near.common.config import register_resolvers, select
from near.common.errors import UserError

ENDS = (".yaml", ".yml", ".json")
# Patterns of refusals, and the lines of the table to which they belong.
REASONS = {
    r"a file of LLaMA-Factory v1": "a file of LLaMA-Factory v1",
    r"configures accelerate": "configures accelerate, trains nothing",
    r"configures DeepSpeed": "configures DeepSpeed, trains nothing",
    r"lists tokens|lists data sets|contains DataFlex's components": "lists tokens, data sets or components",
    r"is for answering": "for answering (inference), trains nothing",
    r"asks for no training": "asks for no training (do_train)",
    r"trains on preferences|contains preferences": "preferences (stage: dpo, kto, rm, ppo; ranking data)",
    r"for images or audio|contains (images|videos|audios)": "images, video or audio (template, data set)",
    r"finetuning_type=": "finetuning_type: freeze or oft",
    r"component_name=": "a component that near does not have (custom, adapt, dynamic_moe)",
    r"has no template=": "a template that near does not have",
    r"is not an entry of": "names a data set that its dataset_info.json lacks",
    r"which near does not fetch": "fetches its dataset_info.json from a hub",
    r"needs .* not installed": "an optimizer whose package is not installed here",
    r"nothing to merge": "merges a model that has no adapter",
    r"near does not quantise": "quantises an export",
}


def script_of(text: str) -> str:
    return "merge" if re.search(r"^export_dir:", text, re.MULTILINE) else "train"


def outcome(path: Path) -> tuple[str, list[str]]:
    """The line of the table to which a file belongs, and the notes on it."""
    script = script_of(path.read_text(encoding="utf-8"))
    try:
        file = translated(script, path, [])
        words = [str(word) for word in file.words]
        cfg = common.composed(script, *words)
        check(cfg, words)
    except UserError as error:
        text = str(error)
        line = next((line for sign, line in REASONS.items() if re.search(sign, text)), "another reason")
        return f"refused: {line}", [text.replace(str(path), "FILE")]
    if lacking := lacking_packages(cfg):
        return f"runs where {lacking} is installed, which is not so here", []
    named = [f"not honoured: {key}: {why}" for key, why in file.skipped.items()]
    kind = "runs, with keys named as not honoured" if named else "runs, every key honoured"
    return kind, [*(f"note: {line}" for line in file.notes), *named]


def lacking_packages(cfg: DictConfig) -> str | None:
    """The package that a run needs and that is not installed here, if there is one."""
    if select(cfg, "model.quantization") is not None and importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes"
    if select(cfg, "parallel.deepspeed") is not None and importlib.util.find_spec("deepspeed") is None:
        return "deepspeed"
    return None


def table(folders: list[Path], lines: bool) -> str:
    """Markdown: how many files of each folder come to what."""
    counts = {folder: collections.Counter() for folder in folders}
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix in ENDS and path.is_file()):
            kind, said = outcome(path)
            counts[folder][kind] += 1
            if lines:
                print(f"{path.relative_to(folder.parent)}: {kind}", *said, sep="\n    ")
    total = sum(counts.values(), collections.Counter())
    names = [folder.absolute().parent.name if folder.name == "examples" else folder.name for folder in folders]
    rows = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for kind in sorted(total, key=lambda kind: (kind.startswith("refused"), -total[kind])):
        rows.append(f"| {kind} | {' | '.join(str(counts[folder][kind] or '') for folder in folders)} |")
    rows.append(f"| all | {' | '.join(str(sum(counts[folder].values())) for folder in folders)} |")
    return "\n".join(rows)


def declared(folder: Path) -> dict[str, object]:
    """Keys of the dataclasses below a folder's hparams, with the defaults that are plain values."""
    found = {}
    for path in [p for p in folder.rglob("*.py") if p.parent.name == "hparams" and p.name != "evaluation_args.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for item in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(item, ast.AnnAssign) and isinstance(item.value, ast.Call):
                    keywords = {k.arg: k.value for k in item.value.keywords}
                    if "init" not in keywords and not item.target.id.startswith("_"):
                        found[item.target.id] = None
                        with contextlib.suppress(ValueError):
                            found[item.target.id] = ast.literal_eval(keywords.get("default"))
    return found


def differences(checkouts: list[Path]) -> list[str]:
    """Keys of the checkouts that near does not know, or knows with another default; and those that are gone."""
    theirs = {key: value for folder in checkouts for key, value in declared(folder).items()}
    ours = {key: value for group in groups().values() for key, value in group.items()}
    lines = [f"{key} (default {value}) is not known here" for key, value in theirs.items() if key not in ours]
    lines += [
        f"{key}: the default is {value}, here {ours[key]}"
        for key, value in theirs.items()
        if value is not None and key in ours and not same(value, ours[key])
    ]
    gone = [key for name, group in groups().items() for key in group if name != "transformers" and key not in theirs]
    return [*lines, *(f"{key} is not there any more" for key in gone)]


def main(*folders: str, lines: bool = False, keys: bool = False) -> None:
    if not folders:
        raise UserError("no folder named; --help says what is expected")
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder")
    register_resolvers()
    paths = [Path(folder) for folder in folders]
    print("\n".join(differences(paths)) if keys else table(paths, lines))


if __name__ == "__main__":
    common.script(main)
