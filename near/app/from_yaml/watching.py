"""The tracker of a run, and its options."""

from omegaconf import OmegaConf

from near.app.from_yaml.file import File
from near.common.config import CONF
from near.common.errors import did_you_mean


def tracker(file: File) -> None:
    """Translate the tracker: the first of report_to and use_swanlab that near has."""
    trackers = {path.stem for path in (CONF / "tracker").glob("*.yaml")}
    names = [name for name in file.names("report_to") if name != "none"]
    names += ["swanlab"] * bool(file.take("use_swanlab") and "swanlab" not in names)
    chosen = next((name for name in names if name in trackers), "none")
    for name in names:
        if name != chosen:
            why = "a run has one tracker" if name in trackers else f"no such tracker{did_you_mean(name, trackers)}"
            if name == "all":
                why = f"a run has one tracker; name it: {', '.join(sorted(trackers - {'none'}))}"
            file.skip(f"report_to={name}", why)
    if names:
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
