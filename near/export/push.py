"""Push an export to the hub."""

import os
import re
from pathlib import Path

from near.common.errors import UserError, as_user_error
from near.common.outputs import LIST


def check_push(name: str, overwrite: bool) -> None:
    """Check that a model can be pushed as `name`.

    Raises:
        UserError: `name` is not ORG/NAME, HF_TOKEN is not set or refused, or the model exists and `overwrite` is False.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"push_to_hub={name} is not of the form ORG/NAME; write it so")
    api = HfApi(token=_token(name))
    what = f"push_to_hub={name}: the hub refuses HF_TOKEN or is unreachable"
    with as_user_error((HfHubHTTPError, OSError, ValueError), what, "check both"):
        api.whoami()
        exists = api.repo_exists(name)
    if exists and not overwrite:
        raise UserError(f"push_to_hub={name} exists already; name another model or set overwrite=true")


def push(folder: Path, name: str, private: bool) -> str:
    """Push the files of `folder` to the hub as model `name`, created if it does not exist; returns its URL."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=_token(name))
    fix = f"{folder} is complete: hf upload {name} {folder}"
    with as_user_error((HfHubHTTPError, OSError, ValueError), f"push_to_hub={name} failed", fix):
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=str(folder), ignore_patterns=[LIST], commit_message="Merged by near"
        )
    return str(url)


def _token(name: str) -> str:
    """HF_TOKEN. No token from the home folder is used: it may be another person's."""
    if token := os.environ.get("HF_TOKEN"):
        return token
    raise UserError(
        f"push_to_hub={name} needs a token with write access; put it into the environment variable HF_TOKEN"
    )
