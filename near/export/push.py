"""An export pushed to the hub."""

import os
import re
from pathlib import Path

from near.common.errors import UserError, one_line
from near.common.outputs import LIST


def check_push(name: str, overwrite: bool) -> None:
    """UserError where a model can't be pushed as `name`: no ORG/NAME, no token in the environment, no access, or there
    is such a model already and it is not to be overwritten."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"push_to_hub={name} is not of the form ORG/NAME")
    api = HfApi(token=_token(name))
    try:
        api.whoami()
        there = api.repo_exists(name)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"push_to_hub={name}: the hub refuses HF_TOKEN or is away ({one_line(error)[:160]})") from error
    if there and not overwrite:
        raise UserError(f"push_to_hub={name} is there already; name another model or set overwrite=true")


def push(folder: Path, name: str, private: bool) -> str:
    """Push what is in `folder` to the hub as model `name`, made where it is not there; its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=_token(name))
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=str(folder), ignore_patterns=[LIST], commit_message="Merged by near"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"push_to_hub={name} failed ({one_line(error)[:160]}); {folder} is whole: hf upload {name} {folder}"
        ) from error
    return str(made)


def _token(name: str) -> str:
    """The token in the environment, and nowhere else: what lies in a home folder may be another person's."""
    if token := os.environ.get("HF_TOKEN"):
        return token
    raise UserError(f"push_to_hub={name} needs a token that may write: put it into the environment variable HF_TOKEN")
