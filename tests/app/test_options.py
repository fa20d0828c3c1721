"""docs/options.md holds every option of every configuration, with what it means."""

from near.app.check.option_types import SCRIPTS
from near.app.options import FOREIGN, PAGE, groups, merged, page, read
from near.app.pages import page_to_write
from near.common.config import CONF
from tests.conftest import composed


def test_the_page_is_in_step():
    assert page_to_write(PAGE).read_text() == page(), "run python -m near options"


def test_every_option_says_what_it_means():
    files = [read(CONF / f"{name}.yaml") for name in ("base", *SCRIPTS)]
    commented: dict[str, bool] = {}
    for file in [*files, *(file for choices in groups().values() for file in choices.values())]:
        for option in file.options:
            commented[option.name] = commented.get(option.name, False) or bool(option.comment)
    silent = [
        n for n, has_comment in commented.items() if not has_comment and not FOREIGN.match(n) and ".queries." not in n
    ]
    assert [n for n in silent if not n.startswith(("data.candidates.", "data.eval."))] == []


def test_every_option_that_composes_is_on_the_page():
    """What Hydra makes of the files has no key that our reading of their lines missed."""
    text, names = page(), set(groups())
    needed = {"merge": ("adapter_name_or_path=a", "export_dir=b"), "report": ("runs=a",)}
    needed |= {"verify": ("folder=a",), "diff": ("folder=a", "other=b")}
    for script in SCRIPTS:
        _, cfg = composed(script, needed.get(script, ()))
        missing = [
            k
            for k in _leaves(cfg)
            if k not in names and not k.startswith(("data.queries", "data.eval")) and f"`{k}`" not in text
        ]
        assert missing == []


def _leaves(cfg, path: str = "") -> list[str]:
    from omegaconf import DictConfig

    found = []
    for key in cfg:
        if str(key).startswith("_"):
            continue
        name, node = f"{path}{key}", cfg._get_node(key)
        branch = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing() and len(node)
        found += _leaves(node, f"{name}.") if branch else [name]
    return found


def test_a_files_lines_are_read(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(
        "# python train.py group=one (why)\n_target_: a.B\nplain: 1\nparent: # of both\n  first: a # its own\n"
        "  second: 'x # y'\n  deep:\n    third: []\ndefaults:\n  - x\n"
    )
    file = read(path, "group")
    assert file.opening == ["python train.py group=one (why)"]
    assert [(o.name, o.value, o.comment) for o in file.options] == [
        ("group.plain", "1", ""),
        ("group.parent.first", "a", "its own"),
        ("group.parent.second", "'x # y'", "of both"),
        ("group.parent.deep.third", "[]", "of both"),
    ]


def test_the_page_says_what_an_option_may_be():
    rows = {name: allowed for choices in groups().values() for name, _, allowed, _ in merged(choices)}
    assert rows["selector.subset_size"] == "number >=1e-09, null"
    assert rows["selector.samples"] == "whole number 1 to 10,000"
    assert rows["selector.focus"] == "`low`, `medium`, `high`"
    assert rows["selector.policy"].startswith("`repeat`"), "a choice that builds on another has its options"
    assert rows["selector.quantiles"] == "each a number 0 to 1 (loss), whole number 2 to 1,000 (quantile)"
    assert "(wandb)" in rows["tracker.mode"] and "(swanlab)" in rows["tracker.mode"], "they differ"
    assert rows["data.cutoff_len"] == "whole number 2 to 10,000,000"
    assert rows["trainer.args.per_device_train_batch_size"] == "whole number 1 to 1,000,000"
    assert rows["selector.judge.server.retries"] == "whole number 0 to 1,000"
    assert rows["model.name_or_path"] == rows["tracker.log_adapter"] == ""


def test_an_option_of_two_scripts_is_described_as_each_has_it():
    of = {script: {o.name: o.allowed for o in read(CONF / f"{script}.yaml").options} for script in SCRIPTS}
    assert (of["select"]["dry_run"], of["train"]["dry_run"]) == ("`count`", "`count`, `forecast`")
    assert of["merge"]["tolerance"] == "number 0 to 1e+06" and of["verify"]["tolerance"].startswith("number >0, ")
    assert next(o for o in read(CONF / "base.yaml").options if o.name == "seed").allowed, "those of every script, too"
