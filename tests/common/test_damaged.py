"""Files that are cut, overwritten, of another kind or of other types: one line that names the file."""

import json
import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from omegaconf import OmegaConf

from near.app import scripts as app
from near.common.errors import UserError, reading, visible
from near.common.files import file_digest, read_json, read_jsonl, read_yaml, read_yaml_list
from near.data.sources.sources import open_sources
from near.export.lineage import adapters_of
from near.searching.neighbours import SCHEMA_VERSION, read_matrix

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-3],
    "first bytes": lambda content: b"\xff\xfe\x00\x01" + content[4:],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"caf\xe9 is not it",
    "utf-16": lambda content: '{"a": 1}'.encode("utf-16"),
    "list": lambda content: b"[1, 2]",
    "number": lambda content: b"17",
    "deep": lambda content: b"[" * 200_000,
    "pickle": lambda content: pickle.dumps({"a": 1}),
    "huge number": lambda content: b'{"vocab_size": ' + b"9" * 5000 + b"}",
}


def line(call, *args) -> str | None:
    """What a user would be shown; None where it reads well. Fails on a traceback."""
    try:
        call(*args)
    except Exception as error:
        shown = app.fault_line(error)
        assert shown is not None, f"a traceback: {error!r}"
        assert "\n" not in shown
        return shown
    return None


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("read", [read_json, read_jsonl, read_yaml, read_yaml_list])
def test_files_of_ours(tmp_path, read, damage):
    path = tmp_path / "one.file"
    path.write_bytes(DAMAGES[damage](b'{"a": 1, "b": [1, 2, 3]}\n'))
    message = line(read, path)
    assert message is None or str(path) in message


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None])
@pytest.mark.parametrize("read", [read_json, read_jsonl, read_yaml])
def test_a_folder_in_the_place_of_a_file(tmp_path, read, make):
    make(tmp_path / "x.json")
    assert "x.json" in line(read, tmp_path / "x.json")


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "a: [1, 2", "a:\tb: c", "[" * 5000, "!!python/name:os.x"])
def test_a_configuration_that_grows_or_is_none(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    assert "config.yaml" in line(read_yaml, tmp_path / "config.yaml")


def test_what_a_reader_raises_is_a_line_and_a_fault_of_ours_is_not():
    class Panic(BaseException):
        pass

    for error in (ValueError("a\nb"), KeyError("k"), AttributeError(), RecursionError("deep"), Panic("at line 1")):
        with pytest.raises(UserError, match=r"^x can't be read \(.+\); mend it$"), reading("x", "mend it"):
            raise error
    for error in (UserError("own"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), reading("x"):
            raise error


@pytest.fixture()
def selection(tmp_path) -> Path:
    """A selection's folder, as select.py writes it."""
    folder = tmp_path / "sel"
    folder.mkdir()
    np.save(folder / "top_indices.npy", np.array([[0, 1, 2], [2, 1, 0]]))
    np.save(folder / "top_scores.npy", np.array([[0.9, 0.5, 0.1]] * 2, dtype=np.float32))
    seal(folder)
    return folder


def seal(folder: Path, **more) -> None:
    digests = {name: file_digest(folder / name) for name in ("top_indices.npy", "top_scores.npy")}
    manifest = {"schema_version": SCHEMA_VERSION, "sha256": digests, **more}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_whole_selection_is_read(selection):
    assert read_matrix(selection).ids.tolist() == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("top_scores", np.array([[0.9, np.nan, 0.1]] * 2, dtype=np.float32)),
        ("top_scores", np.array([[0.9, np.inf, 0.1]] * 2, dtype=np.float32)),
        ("top_scores", np.array([["a", "b", "c"]] * 2)),
        ("top_scores", np.array([[1, 2, 3]] * 2)),
        ("top_scores", np.zeros((2, 2), dtype=np.float32)),
        ("top_scores", np.array([[object(), None, 1]] * 2, dtype=object)),
        ("top_indices", np.array([[0, 1, 1], [2, 1, 0]])),
        ("top_indices", np.array([[0, 1, -1], [2, 1, 0]])),
        ("top_indices", np.array([[0.0, 1.0, 2.0]] * 2)),
        ("top_indices", np.array([["0", "1", "2"]] * 2)),
        ("top_indices", np.arange(6)),
        ("top_indices", np.array(3)),
        ("top_indices", np.array([[True, False, True]] * 2)),
        ("top_indices", np.zeros((2, 3), dtype=[("a", "i8")])),
    ],
)
def test_a_selection_of_other_numbers_is_refused(selection, name, array):
    np.save(selection / f"{name}.npy", array)
    seal(selection)
    assert str(selection) in line(read_matrix, selection)


@pytest.mark.parametrize("sha256", [None, {}, "x", {"top_indices.npy": "0"}, [1], {"top_scores.npy": None}])
def test_a_manifest_without_digests_is_refused(selection, sha256):
    seal(selection, sha256=sha256)
    assert "select again" in line(read_matrix, selection)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["top_indices.npy", "top_scores.npy", "manifest.json"])
def test_a_damaged_selection(selection, name, damage):
    path = selection / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert str(selection) in line(read_matrix, selection)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_saved_data_set(tmp_path, name, damage):
    datasets.Dataset.from_list([{"instruction": "a", "output": "b"}] * 4).save_to_disk(tmp_path / "set")
    path = tmp_path / "set" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    keys = ("split", "name", "revision", "key", "dataset_info")
    source = OmegaConf.create({"path": str(tmp_path / "set"), **dict.fromkeys(keys)})

    def read():
        for opened in open_sources(source, "data.candidates", str(tmp_path / "cache")):
            list(opened.rows(None))

    message = line(read)
    assert message is None or str(tmp_path / "set") in message


@pytest.mark.parametrize(
    "config", [{"base_model_name_or_path": 5}, {"revision": [1]}, [1], 3, {"base_model_name_or_path": {}}]
)
def test_an_adapters_configuration_of_other_types(tmp_path, config):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert "adapter_config.json" in line(adapters_of, str(tmp_path))


@pytest.fixture(scope="module")
def model(tmp_path_factory, cache) -> Path:
    from near.models.hub import model_folder

    return Path(model_folder("model.name_or_path", "builtin:tiny", None, str(cache), ""))


@pytest.mark.model
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_model(tmp_path, model, name, damage):
    from near.export.weight_files import load_float32
    from near.models.loading import load_base, load_tokenizer

    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    check_model(folder, name, load_base, load_tokenizer, load_float32)


@pytest.mark.model
@pytest.mark.parametrize(
    "change",
    [{"vocab_size": 17}, {"vocab_size": "x"}, {"hidden_size": "x"}, {"model_type": "nosuch"}, {"model_type": None}]
    + [{"num_hidden_layers": -1}, {"num_attention_heads": 0}, {"rope_parameters": 3}, {"torch_dtype": "int3"}],
)
def test_a_models_configuration_of_other_values(tmp_path, model, change):
    from near.export.weight_files import load_float32
    from near.models.loading import load_base, load_tokenizer

    folder = tmp_path / "m"
    shutil.copytree(model, folder)
    (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **change}))
    check_model(folder, "config.json", load_base, load_tokenizer, load_float32)


def check_model(folder: Path, name: str, load_base, load_tokenizer, load_float32) -> None:
    cfg = {"name_or_path": str(folder), "revision": None, "dtype": "float32", "trust_remote_code": False}
    cfg = OmegaConf.create({**cfg, "template": None, "quantization": None})
    message = [line(load_base, cfg, "", "cpu"), line(load_tokenizer, cfg, ""), line(load_float32, folder, False)]
    assert all(s is None or str(folder) in s for s in message), message
    if name == "model.safetensors":
        assert message[0] and message[2]


def test_control_characters_are_written_out():
    odd = "a\x1b[31m\r\b\x00\x9b\u202e\u2066\ud800 é 漢\n"
    assert visible(odd) == "a\\x1b[31m\\r\\x08\\x00\\x9b\\u202e\\u2066\\ud800 é 漢\\n"
