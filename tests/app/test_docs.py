"""Every command in the documents runs, as typed but small; one that needs what is not here says so, and composes."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from near.app.command import COMMANDS, SCRIPTS
from tests.conftest import RANKS, ROOT, configured, process
from tests.only_base import project

NEEDS = re.compile(r"(GPU|hub|cluster|server|account|extra)\b")
PAGES = [
    "README.md",
    "README-zh.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "options.md"),  # made of conf/
]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:python|torchrun|make|pip|near) [^`]+)`")
# But for what GitHub serves beside the files
LINK = re.compile(r"\]\((?!https?://|\.\./\.\./actions/)([^)#\s]+)(#[^)]*)?\)")
SMALL = {
    "select.py": ["data.candidates.limit=2100", "data.queries.limit=6", "model=tiny"],
    "train.py": [
        "model=tiny",
        "data.candidates.limit=1100",
        "data.queries.limit=6",
        "data.eval.limit=4",
        "data.cutoff_len=64",
        "trainer.warmup_step=1",
        "trainer.update_step=1",
        "trainer.update_times=2",
        "trainer.args.per_device_train_batch_size=2",
        "evaluation.answers=false",
    ],
    "eval.py": ["evaluation.max_new_tokens=2"],
}


def commands() -> dict[str, str]:
    """All commands of the documents' bash blocks, with their comments."""
    found = {}
    for page in PAGES:
        for block in BLOCK.findall((ROOT / page).read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                command, _, comment = line.partition(" #")
                if command := " ".join(command.split()):
                    found.setdefault(command, comment.strip())
    return found


ALL = commands()
MARKED = [c for c, comment in ALL.items() if NEEDS.match(comment)]
NEAR = re.compile(rf"near ({'|'.join(SCRIPTS)})\b")  # in the place of `python NAME.py`
OURS = re.compile(
    rf"(RAY_ADDRESS=auto )?(python|torchrun --nproc_per_node=\d|accelerate launch .*?) \w+\.py\b|{NEAR.pattern}"
)
PLAIN = [c for c in ALL if c not in MARKED]
FROM_YAML = "from_yaml="  # tests/app/test_from_yaml.py runs such files; what is typed here names one


def split(command: str) -> tuple[list[str], str, list[str]]:
    """What a command of ours has in front of its script, the script's file, and its options."""
    words = shlex.split(NEAR.sub(r"python \1.py", command))
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    return words[:at], words[at], words[at + 1 :]


def composes(command: str) -> None:
    """The configuration of a command of ours is accepted; of a sweep, its first job's."""
    _, file, options = split(command)
    script, overrides = file.removesuffix(".py"), []
    for override in OverridesParser.create().parse_overrides([w for w in options if w != "-m"]):
        if override.is_sweep_override():
            overrides.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
        else:
            overrides.append(override.input_line)
    configured(script, *overrides)


@pytest.mark.parametrize("command", [c for c in ALL if OURS.match(c) and FROM_YAML not in c])
def test_composes(command):
    composes(command)


def test_inline_commands_compose_or_exist():
    for page in PAGES:
        for command in INLINE.findall((ROOT / page).read_text().replace("\n", " ")):
            command = command.split(" #")[0]
            if command.startswith("make "):
                assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text(), command
            elif command.startswith("python bench/"):
                assert (ROOT / command.split()[1]).is_file(), command
            elif command.startswith("pip install "):
                assert set(re.findall(r"[\w-]+", command.partition("[")[2])) <= {*project(), "NAME"}, command
            elif OURS.match(command) and not re.search(r"\.\.\.|NAME|=FILE|=last|=first_words|from_yaml=| --", command):
                composes(command)


def test_the_first_lines_of_python_run():
    """Of README.md, as they stand there."""
    (code,) = CODE.findall((ROOT / "README.md").read_text())
    quoted: dict = {}
    exec(code, quoted)
    assert quoted["nearest"].ids.shape == quoted["nearest"].scores.shape == (20, 100)
    assert len(set(quoted["subset"].ids.tolist())) == 500


def test_links_lead_somewhere():
    for page in PAGES:
        for target, _ in LINK.findall((ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_tours_tests_are_there():
    text = (ROOT / "docs" / "tour.md").read_text()
    named = re.findall(r"`(tests/\S+)::(\w+)`", text)
    assert len(named) == len(re.findall(r"^\d+\. ", text, re.MULTILINE))  # one for each stop
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


def test_what_is_not_ours_is_there():
    for command in PLAIN:
        if command.startswith("make "):
            assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text(), command
        elif command.startswith("pip install "):
            assert set(re.findall(r"[\w-]+", command.partition("[")[2])) <= set(project()), command
        elif command.startswith("python -m near "):
            assert command.split()[3] in COMMANDS, command
        else:
            assert OURS.match(command) or command == ".ci/run", f"{command} is run by no test: mark what it needs"


@pytest.fixture
def examples(tmp_path, monkeypatch) -> str:
    """The files of CONTRIBUTING.md as they stand there, beside this package's; the override that finds their YAMLs."""
    import near.evaluation.graders
    import near.selection.selectors

    text = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"^`((?:near|conf)/\S+)`:\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for path, content in blocks:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    for package in (near.selection.selectors, near.evaluation.graders):
        folder = tmp_path / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    assert len(blocks) == 4
    return f"hydra.searchpath=[file://{tmp_path}/conf]"


def example(script: str, *words: str):
    """The checked configuration of a command that uses an example."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from near.app.check.check import check
    from near.common.config import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(script, overrides=list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    check(cfg, words)
    return cfg


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("selector.step=0", "selector.step=0 is too small; use selector.step>=1"),
        ("selector.step=101", "use selector.step<=100"),
        ("selector.step=1.5", "is not a whole number"),
        ("selector.share=1.5", "use selector.share<=1"),
        ("selector.share=nan", "selector.share=nan is not a finite number"),
        ("+selector.steps=2", "did you mean step"),
        ("evaluation.graders.first_words.words=0", "use evaluation.graders.first_words.words>=1"),
        ("evaluation.graders.first_words.words=null", "is not a whole number"),
        ("+evaluation.graders.first_words.word=2", "did you mean words"),
    ],
)
def test_the_examples_of_contributing_are_bounded(word, line, examples):
    from near.common.errors import UserError

    with pytest.raises(UserError, match=re.escape(line)):
        example("train", "selector=last", "evaluation=first_words", examples, word)


@pytest.mark.model
def test_the_examples_of_contributing_run(tiny, tmp_path, examples):
    """The selector trains on its rows, and the grader grades the answers."""
    from near.app.check.check import check
    from near.evaluation.eval import evaluate
    from near.training.train import train

    train(example("train", *tiny, "selector=last", "selector.step=2", examples), tmp_path / "run")
    chosen = np.load(tmp_path / "run" / "rounds" / "001.npy")
    assert len(chosen) == 8 and set(np.diff(np.sort(chosen))) == {2}
    others = np.load(tmp_path / "run" / "rounds" / "000.npy")
    assert chosen.min() > np.median(others), "its rows are the last ones"

    cfg = example("eval", f"run={tmp_path / 'run'}", tiny[-1], *tiny[:3], "evaluation=first_words", examples)
    evaluate(cfg, tmp_path / "run", check)
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert answers
    for answer in answers:
        right = answer["answer"].casefold().split()[:1] == answer["reference"].casefold().split()[:1]
        assert answer["scores"]["first_words"] == right


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the documents' commands name: files, a finished run RUN, a folder of runs FOLDER."""
    place = tmp_path_factory.mktemp("docs")
    for name, count in (("pool", 2200), ("target", 8), ("held_out", 4)):
        rows = [{"instruction": f"{name} asks {i} of {i % 7}", "output": f"it is {i}"} for i in range(count)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = [*SMALL["train.py"], "embedder=hashing", "trainer.args.save_steps=1"]
    done = process(str(ROOT / "train.py"), *small, "output_dir=RUN", cwd=place, env=environment(place))
    assert done.returncode == 0, done.stderr
    shutil.copytree(place / "RUN", place / "FOLDER" / "one")
    for name in "AB":
        shutil.copytree(place / "RUN" / "adapter", place / name)
    return place


def environment(place: Path) -> dict:
    return {**os.environ, "NEAR_CACHE": str(ROOT / ".cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in PLAIN if OURS.match(c) and FROM_YAML not in c])
def test_runs(command, place):
    shutil.rmtree(place / "OUT", ignore_errors=True)
    steps = iter(sorted((place / "RUN" / "checkpoints").iterdir()))
    command = re.sub(r"RUN/checkpoints/checkpoint-\d+", lambda _: str(next(steps).relative_to(place)), command)
    command = re.sub(r"runs=runs/\w+", "runs=FOLDER", command)
    before, script, typed = split(command)
    small = list(SMALL.get(script, []))
    if script in ("select.py", "train.py") and not re.search(r"embedder=|experiment=|sweeps=embedders", command):
        small.append("embedder=hashing")
    if "trainer=dynamic_weight" in command:
        small = [word for word in small if "update_" not in word] + ["trainer.train_step=2"]
    small += ["seed=1"] if "sweeps=" in command else []
    small += ["n=20"] if " n=" in command else []
    small += ["row=3"] if " row=" in command else []
    start = RANKS if before[0] == "torchrun" else []
    done = process(*start, str(ROOT / script), *typed, *small, cwd=place, env=environment(place))
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in PLAIN if c.startswith("python -m near ")])
def test_commands_run(command, place):
    assert process("-m", "near", *command.split()[3:], cwd=place, env=environment(place)).returncode == 0


def test_the_chinese_readme_is_in_step():
    """The same sections, tables, commands, figures and links, in the same order."""
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README-zh.md"))

    def shape(text: str) -> dict:
        body = text.split("\n", 6)[-1]
        lines = body.splitlines()
        return {
            "levels": [line.split(" ")[0] for line in lines if line.startswith("#") and " " in line],
            "commands": [
                line.partition(" #")[0].rstrip() for block in BLOCK.findall(body) for line in block.splitlines()
            ],
            "python": [re.sub(r"  # .*", "", code) for code in CODE.findall(body)],
            "links": sorted(target for target, _ in LINK.findall(body) if not target.startswith("README")),
            "rows": [re.sub(r"[^|]", "", line) for line in lines if line.startswith("|")],
            "figures": sorted(re.findall(r"\d[\d,]*\.\d+%?|\d+%", body)),
            "inline": sorted(INLINE.findall(body.replace("\n", " "))),
        }

    assert shape(english) == shape(chinese)
