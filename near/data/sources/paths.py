"""Paths of sources that don't exist; imports nothing heavy."""

from pathlib import Path

from near.common.errors import did_you_mean


def absence(path: str) -> str | None:
    """Why `path` is no source, with near misses; None where it exists, is a glob or a built-in, or may be a hub's."""
    if path.startswith("builtin:") or any(c in path for c in "*?["):
        return None
    local = Path(path).expanduser()
    if local.exists() or not (local.suffix or path.startswith((".", "/", "~")) or path.count("/") != 1):
        return None
    siblings = [p.name for p in local.parent.iterdir() if p.name != local.name] if local.parent.is_dir() else []
    hint = did_you_mean(local.name, siblings) if siblings else f"; there is no folder {local.parent} either"
    return f"no such file{'; name another file or data set' if local.parent == Path() else hint}"
