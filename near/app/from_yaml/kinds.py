"""The kind of a YAML file, by its keys: a file for another script or program is refused at once, with the key that
shows it."""

import re

from near.app.from_yaml.defaults import defaults
from near.app.from_yaml.file import File
from near.app.from_yaml.keys import TABLES, TRAIN
from near.common.errors import UserError, did_you_mean
from near.common.secrets import is_secret
from near.common.signature import keywords

FIELDS = "transformers.training_args.TrainingArguments"
TRAINING = ("do_train", "stage", "dataset", "do_predict", "do_eval", "train_type", "per_device_train_batch_size")
EVALUATION = ("task", "n_shot", "task_dir", "save_dir")
DATA = ("path", "file_name", "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name")  # of an entry of data sets


def check_kind(file: File, script: str) -> None:
    """UserError for a file that `script` can't read, and for a key that the other systems don't have."""
    if says := _elsewhere(file.values) or _another_script(file.values, script):
        raise UserError(f"{file.path} {says}")
    known = {*defaults(), *TRAIN, *(keywords(FIELDS) or ())}
    unknown = [key for key in file.values if key not in known and not is_secret(key)]
    if unknown and len(unknown) == len(file.values):
        raise UserError(
            f"{file.path}: none of its keys is a key of a training file ({_listed(unknown)}); name a file of "
            "DataFlex or LLaMA-Factory"
        )
    if unknown:
        faults = (f"{key} is not a key of LLaMA-Factory or DataFlex{_near(key, known)}" for key in unknown)
        raise UserError(f"{file.path}: {'; '.join(faults)}")


def _elsewhere(values: dict) -> str:
    """What a file is for that no script of near reads; empty for any other."""
    has_model = "model_name_or_path" in values
    for other in TABLES["other files"] if not has_model else ():
        if (keys := _present(values, other["keys"].split())) and keys != ["model"]:
            return other["says"].format(_listed(keys))
    if not has_model and all(isinstance(value, dict) and set(value) & set(DATA) for value in values.values()):
        name, entry = next(iter(values.items()))
        key = next(key for key in DATA if key in entry)
        return f"lists data sets ({name}: {key}); give a training file that names them"
    if all(re.fullmatch(r"<.+>", key) for key in values):
        return f"lists tokens ({_listed(list(values))}); give a training file whose new_special_tokens_config it is"
    if (keys := _present(values, EVALUATION)) and "task" in keys:
        return f"asks for an evaluation (task={values['task']}): python eval.py run=RUN evaluation=mmlu"
    return ""


def _another_script(values: dict, script: str) -> str:
    """What a file is for that another script reads, or none; empty for one that is for `script`."""
    trains, merges = _present(values, TRAINING), "export_dir" in values
    if script == "merge":
        if merges:
            return ""
        if trains:
            return f"is for training ({_listed(trains)}): python train.py from_yaml=FILE; a merge file names export_dir"
        return f"is for answering ({_answering(values)}), not for merging: a merge file names export_dir"
    if merges and "do_train" not in values and not any(key in values for key in ("dataset", "train_type")):
        return "is for merging (export_dir): python merge.py from_yaml=FILE"
    if "model_name_or_path" in values and not trains:
        return (
            f"is for answering with a model ({_answering(values)}) and trains nothing; python eval.py run=RUN lets a "
            "trained run answer"
        )
    return ""


def _answering(values: dict) -> str:
    return "infer_backend" if "infer_backend" in values else "neither do_train nor dataset"


def _present(values: dict, keys: tuple | list) -> list[str]:
    return [key for key in keys if key in values]


def _listed(keys: list[str]) -> str:
    return ", ".join(map(str, keys[:3])) + (", ..." if len(keys) > 3 else "")


def _near(key: str, known: set[str]) -> str:
    hint = did_you_mean(key, known)
    return hint if hint.startswith("; did") else "; take it out"
