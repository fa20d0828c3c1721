"""Error lines for a full or read-only disk: the folder, its free space, and the option to set."""

import os
import shutil
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from near.common.files import READ_ONLY

_folders: dict[str, Path] = {}  # option to the folder that the running job writes to


def watch(cfg: DictConfig, output_dir: Path) -> None:
    """Record the folders that the job of `cfg` writes to."""
    _folders.clear()
    _folders["output_dir"] = Path(os.path.abspath(output_dir))
    for key in ("cache_dir", "export_dir"):
        if isinstance(path := cfg.get(key), str):
            _folders[key] = Path(path).expanduser().resolve()


def full_line(error: OSError) -> str:
    """The error line for a full disk."""
    path = Path(error.filename) if error.filename else _fullest()
    if path is None:
        return "no space left on the device of the output or cache folder; free some, run again"
    free = shutil.disk_usage(existing(path)).free
    return f"no space left on the device of {path}: {_shown(free)} free; free some{_instead(path)}"


def read_only_line(error: OSError) -> str | None:
    """The error line for a file in a read-only cache; None for other files."""
    cache = _folders.get("cache_dir")
    if cache is None or error.errno not in READ_ONLY or not error.filename:
        return None
    path = Path(os.path.abspath(error.filename))
    if not path.is_relative_to(cache) or os.access(existing(path.parent), os.W_OK):
        return None
    part = path.relative_to(cache).parts[:1]
    return (
        f"cache_dir={cache} is read-only and lacks data that this run needs ({'/'.join((*part, ''))} would be "
        "written); set cache_dir to a folder that can be written"
    )


def _fullest() -> Path | None:
    """The folder with the least free space that the job writes to; None if no folders are known."""
    folders = [*_folders.values(), Path(tempfile.gettempdir())] if _folders else []
    free = {folder: shutil.disk_usage(existing(folder)).free for folder in folders}
    return min(free, key=free.get, default=None)


def _instead(path: Path) -> str:
    holding = [key for key, folder in _folders.items() if Path(os.path.abspath(path)).is_relative_to(folder)]
    if holding:
        longest = max(holding, key=lambda key: len(str(_folders[key])))
        return f", or set {longest} to a folder on another disk"
    if Path(os.path.abspath(path)).is_relative_to(tempfile.gettempdir()):
        return ", or set the environment variable TMPDIR"
    return ", run again"


def existing(path: Path) -> Path:
    """`path`, or its nearest existing parent."""
    return next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
