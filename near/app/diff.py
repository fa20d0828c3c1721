"""The command `near diff A B`: what two selections share."""

from collections.abc import Sequence

from near.app.handed_on import config_of, configured, one_line_faults
from near.common.files import provenance, write_json

USAGE = "near diff A B [NAME=VALUE ...]"


def main(words: Sequence[str]) -> None:
    with one_line_faults():
        cfg, typed = configured("diff", words, ["folder", "other"], USAGE)
        from near.report.diff import diff, show
        from near.report.picked import Picked

        a, b = Picked.of(cfg.folder), Picked.of(cfg.other)
        read_a, read_b = (config_of(picked.folder, cfg, typed, ["data"]) for picked in (a, b))
        result = diff(a, b, read_a, read_b, cfg.cache_dir, cfg.rows)
        show(result)
        if cfg.json is not None:
            write_json(cfg.json, {**result.to_json(), **provenance()})
