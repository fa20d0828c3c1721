"""Locates a model's files: a folder, a built-in asset, or a hub model downloaded at its commit."""

from pathlib import Path

from near.common.errors import UserError, one_line
from near.common.files import refuse_special, refuse_special_in
from near.data.builtin import assets
from near.data.builtin.assets import PREFIX, resolve

SKIPPED = ["onnx/*", "openvino/*", "original/*", "*.pth", "*.gguf", "*.msgpack", "*.h5"]


def model_folder(key: str, path: str, revision: str | None, cache_dir: str, instead: str) -> str:
    """The local folder of a model; a hub model is downloaded.

    Args:
        key: the option that `path` comes from, for error messages.
        path: a folder, `builtin:NAME`, or a hub id.
        revision: a hub model's commit, branch or tag; None: the default branch.
        cache_dir: where built-in assets are cached.
        instead: the built-in choice to suggest.

    Raises:
        UserError: `path` is neither a folder with a model nor a model that the hub provides.
    """
    resolved = resolve(path, cache_dir)
    refuse_special(Path(resolved).expanduser(), key)
    if Path(resolved).expanduser().is_dir():
        folder = Path(resolved).expanduser()
        refuse_special_in(folder, key)
        if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
            raise UserError(f"{key}={path}: the folder has no model (no config.json); name another")
        return str(folder)
    if resolved.startswith((".", "/", "~")) or resolved.count("/") > 1:
        raise UserError(f"{key}={path}: no such folder; name a model's folder or hub id")
    from huggingface_hub import get_token, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return snapshot_download(resolved, revision=revision, ignore_patterns=SKIPPED)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        token = "HF_TOKEN is set, but has no access" if get_token() else "HF_TOKEN is not set"
        raise UserError(
            f"{key}={path}: the hub has no such model, or it is gated or private: {token}; accept its terms there "
            "and put a token of that account into the environment variable HF_TOKEN"
        ) from error
    except (OSError, ValueError, HFValidationError, RuntimeError) as error:
        raise UserError(
            f"{key}={path}: no such folder, and the hub did not provide it "
            f"({one_line(error)[:160]}); without access to a hub use {instead}, which is built in"
        ) from error


def download_of(path: str, revision: str | None, cache_dir: str) -> str | None:
    """What `model_folder` would download; None if nothing. Nothing is downloaded, and no hub is contacted."""
    if path.startswith(PREFIX):
        return assets.download_of(path, cache_dir)
    if Path(path).expanduser().is_dir() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        return None
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(path, revision=revision, ignore_patterns=SKIPPED, local_files_only=True)
    except (OSError, ValueError):  # what is no hub id is reported by the run itself
        return f"{path} from the hub"
    return None


def resolve_dtype(dtype: str) -> str:
    """`dtype`; "auto" becomes bfloat16 on a GPU that computes in it, else float32."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if computes_bfloat16() else "float32"


def computes_bfloat16() -> bool:
    """Whether a GPU computes in bfloat16 natively (older ones emulate it)."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
