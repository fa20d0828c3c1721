"""Push an export to the hub."""

import os
import re
from pathlib import Path

from near.common.errors import UserError, one_line
from near.common.outputs import LIST


def check_push(name: str, overwrite: bool) -> None:
    """Check that a model can be pushed as `name`.

    Raises:
        UserError: `name` is not ORG/NAME, HF_TOKEN is not set or refused, or the model exists and `overwrite` is False.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"push_to_hub={name} is not of that form; use ORG/NAME")
    api = HfApi(token=_token(name))
    try:
        api.whoami()
        exists = api.repo_exists(name)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"push_to_hub={name}: the hub refuses HF_TOKEN or is unreachable ({one_line(error)[:160]}); check both"
        ) from error
    if exists and not overwrite:
        raise UserError(f"push_to_hub={name} exists already; name another model or set overwrite=true")


def push(folder: Path, name: str, private: bool) -> str:
    """Push the files of `folder` to the hub as model `name`, created if it does not exist; returns its URL."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=_token(name))
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=str(folder), ignore_patterns=[LIST], commit_message="Merged by near"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"push_to_hub={name} failed ({one_line(error)[:160]}); {folder} is complete: hf upload {name} {folder}"
        ) from error
    return str(url)


def _token(name: str) -> str:
    """HF_TOKEN. No token from the home folder is used: it may be another person's."""
    if token := os.environ.get("HF_TOKEN"):
        return token
    raise UserError(
        f"push_to_hub={name} needs a token with write access: put it into the environment variable HF_TOKEN"
    )
