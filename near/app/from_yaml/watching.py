"""Who watches a run: trackers, and their options."""

from omegaconf import OmegaConf

from near.app.from_yaml.file import File
from near.common.config import CONF
from near.common.errors import did_you_mean


def tracker(file: File) -> None:
    """Who watches the run: the first of report_to and use_swanlab that is there."""
    there = {path.stem for path in (CONF / "tracker").glob("*.yaml")}
    asked = [name for name in file.names("report_to") if name != "none"]
    asked += ["swanlab"] * bool(file.take("use_swanlab") and "swanlab" not in asked)
    chosen = next((name for name in asked if name in there), "none")
    for name in asked:
        if name != chosen:
            why = "one tracker a run" if name in there else f"no such tracker{did_you_mean(name, there)}"
            if name == "all":
                why = f"one tracker a run; name it: {', '.join(sorted(there - {'none'}))}"
            file.skip(f"report_to={name}", why)
    if asked:
        file.put("tracker", chosen)
    listed = OmegaConf.load(CONF / "tracker" / f"{chosen}.yaml")
    prefix = "swanlab_" if chosen == "swanlab" else ""
    for key in ("project", "workspace", "mode", "logdir"):
        for name in {f"swanlab_{key}", *(["project"] if key == "project" else [])} & set(file.values):
            value = file.take(name)
            value = "online" if name == "swanlab_mode" and value == "cloud" else value
            if key in listed and name == f"{prefix}{key}":
                file.put(f"tracker.{key}", value)
            else:
                file.skip(name, f"not an option of tracker={chosen}", value)
