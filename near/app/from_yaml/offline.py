"""Files for select.py: the keywords of DataFlex's offline NEAR, or the data of a training file."""

from pathlib import Path

import yaml

from near.app.from_yaml.data import data
from near.app.from_yaml.file import File
from near.app.from_yaml.keys import OFFLINE
from near.app.from_yaml.kinds import check_kind
from near.app.from_yaml.translate import is_plain
from near.common.config import CONF
from near.common.errors import UserError, did_you_mean


def select(file: File) -> None:
    """Translate a file for select.py: of DataFlex's offline selector, or for training, of which it needs the data."""
    if "candidate_path" in file.values:
        _offline(file)
        for key in file.values:
            if key not in OFFLINE:
                file.skip_always(key, f"it is not an option of the offline NEAR{did_you_mean(key, OFFLINE)}")
        return
    check_kind(file, "select")
    rows = data(file, True, is_plain(file)).rows
    if rows is not None:
        file.put("max_K", min(1000, rows))
    file.put("seed", file.number("seed", 42))
    file.notes.append("a file for training: select.py uses its data and its seed")


def _offline(file: File) -> None:
    file.put("data", "files")
    paths = {
        key: file.take(f"{key[:-1] if key == 'candidates' else 'query'}_path") for key in ("candidates", "queries")
    }
    for part, path in paths.items():
        if path is None and file.typed_value(f"data.{part}.path") is None:
            raise UserError(
                f"{file.path}: query_path is missing; name the target's rows, or type data.queries.path=..."
            )
        if path is not None:
            file.put(f"data.{part}.path", str(path))
            if not Path(str(path)).suffix and str(path).count("/") == 1 and not Path(str(path)).exists():
                same = part == "queries" and path == paths["candidates"]
                file.put(f"data.{part}.split", "validation" if same else "train")
    model = str(file.take("embed_model") or file.take("model_name") or "Qwen/Qwen3-Embedding-0.6B")
    options = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / "embedder").glob("*.yaml")
    }
    choices = {values.get("model"): name for name, values in options.items()}
    if model in choices:
        file.put("embedder", choices[model])
    else:  # with the other options of the most similar choice
        file.put("embedder", "qwen3" if "qwen3-embedding" in model.lower() else "minilm")
        file.put("embedder.model", model)
    method = file.take("embed_method", "auto")
    file.put("embedder.backend", "sentence-transformers" if method == "sentence-transformer" else method)
    file.put("embedder.batch_size", file.number("batch_size", 32, 1))
    file.put("max_K", file.number("max_K", 1000, 1))
    if file.take("cache_dir"):
        file.put("cache_dir", str(file.take("cache_dir")))
    saved = Path(str(file.take("save_indices_path", "top_indices.npy")))
    if saved.parent != Path():
        file.put("output_dir", str(saved.parent))
    if saved.name != "top_indices.npy" or saved.parent == Path():
        file.notes.append(f"save_indices_path={saved}: the matrix is top_indices.npy in the run's folder")
