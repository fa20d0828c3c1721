"""Files of other systems: how many run, and why the others are refused.

python bench/foreign_files.py LLaMA-Factory/examples DataFlex/examples     the table of docs/from_dataflex.md
... lines=true                                                             and the messages for each file
python bench/foreign_files.py LLaMA-Factory DataFlex keys=true             keys and defaults that differ from near's

Nothing is trained or downloaded: a file runs if its translation composes and passes the check of the configuration.
Models and data of a hub are used by their names.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # instead of this folder, whose select.py hides the library's

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
# Pattern of a refusal's message -> its line of the table.
REASONS = {
    r"a file of LLaMA-Factory v1": "a file of LLaMA-Factory v1",
    r"configures accelerate": "configures accelerate, trains nothing",
    r"configures DeepSpeed": "configures DeepSpeed, trains nothing",
    r"lists tokens|lists data sets|contains DataFlex's components": "lists tokens, data sets or components",
    r"is for answering": "for inference, trains nothing",
    r"asks for no training": "asks for no training (do_train)",
    r"trains on preferences|contains preferences": "preferences (stage: dpo, kto, rm, ppo; ranking data)",
    r"for images or audio|contains (images|videos|audios)": "images, video or audio (template, data set)",
    r"finetuning_type=": "finetuning_type: freeze or oft",
    r"component_name=": "a component that near does not have",
    r"has no template=": "a template that near does not have",
    r"is not an entry of": "names a data set that its dataset_info.json lacks",
    r"which near does not fetch": "fetches its dataset_info.json from a hub",
    r"needs .* not installed": "an optimizer whose package was not installed",
    r"nothing to merge": "merges a model that has no adapter",
    r"near does not quantise": "quantises an export",
}


def script_of(text: str) -> str:
    return "merge" if re.search(r"^export_dir:", text, re.MULTILINE) else "train"


def outcome(path: Path) -> tuple[str, list[str]]:
    """The line of the table that a file belongs to, and the messages for it."""
    script = script_of(path.read_text(encoding="utf-8"))
    try:
        file = translated(script, path, [])
        words = [str(word) for word in file.words]
        cfg = common.composed(script, *words)
        check(cfg, words)
    except UserError as error:
        text = str(error)
        line = next((line for pattern, line in REASONS.items() if re.search(pattern, text)), "another reason")
        return f"refused: {line}", [text.replace(str(path), "FILE")]
    if lacking := lacking_packages(cfg):
        return f"runs where {lacking} is installed, which it was not", []
    named = [f"not honoured: {key}: {why}" for key, why in file.skipped.items()]
    kind = "runs, with keys named as not honoured" if named else "runs, every key honoured"
    return kind, [*(f"note: {line}" for line in file.notes), *named]


def lacking_packages(cfg: DictConfig) -> str | None:
    """The package that a run needs and that is not installed, if there is one."""
    if select(cfg, "model.quantization") is not None and importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes"
    if select(cfg, "parallel.deepspeed") is not None and importlib.util.find_spec("deepspeed") is None:
        return "deepspeed"
    return None


def table(folders: list[Path], lines: bool) -> str:
    """A Markdown table: the number of files of each folder by outcome."""
    counts = {folder: collections.Counter() for folder in folders}
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix in ENDS and path.is_file()):
            kind, messages = outcome(path)
            counts[folder][kind] += 1
            if lines:
                print(f"{path.relative_to(folder.parent)}: {kind}", *messages, sep="\n    ")
    total = sum(counts.values(), collections.Counter())
    names = [folder.absolute().parent.name if folder.name == "examples" else folder.name for folder in folders]
    rows = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for kind in sorted(total, key=lambda kind: (kind.startswith("refused"), -total[kind])):
        rows.append(f"| {kind} | {' | '.join(str(counts[folder][kind] or '') for folder in folders)} |")
    rows.append(f"| all | {' | '.join(str(sum(counts[folder].values())) for folder in folders)} |")
    return "\n".join(rows)


def declared(folder: Path) -> dict[str, object]:
    """Keys of the dataclasses below a folder's hparams, with the defaults that are plain values."""
    defaults = {}
    for path in [p for p in folder.rglob("*.py") if p.parent.name == "hparams" and p.name != "evaluation_args.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for item in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(item, ast.AnnAssign) and isinstance(item.value, ast.Call):
                    keywords = {k.arg: k.value for k in item.value.keywords}
                    if "init" not in keywords and not item.target.id.startswith("_"):
                        defaults[item.target.id] = None
                        with contextlib.suppress(ValueError):
                            defaults[item.target.id] = ast.literal_eval(keywords.get("default"))
    return defaults


def differences(checkouts: list[Path]) -> list[str]:
    """Keys of the checkouts that near does not know, or knows with another default; and those that no longer exist."""
    theirs = {key: value for folder in checkouts for key, value in declared(folder).items()}
    ours = {key: value for group in groups().values() for key, value in group.items()}
    lines = [f"{key} (default {value}) is not known to near" for key, value in theirs.items() if key not in ours]
    lines += [
        f"{key}: the default is {value}, near has {ours[key]}"
        for key, value in theirs.items()
        if value is not None and key in ours and not same(value, ours[key])
    ]
    gone = [key for name, group in groups().items() for key in group if name != "transformers" and key not in theirs]
    return [*lines, *(f"{key} no longer exists" for key in gone)]


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
