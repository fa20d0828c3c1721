"""A model that the hub does not provide: one line with the reason and the fix."""

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from near.common.errors import UserError
from near.models.hub import model_folder


@pytest.mark.parametrize("error", [GatedRepoError, RepositoryNotFoundError])
@pytest.mark.parametrize(
    ("token", "expected"), [(None, "HF_TOKEN is not set"), ("hf_abc", "HF_TOKEN is set, but has no")]
)
def test_a_gated_model_asks_for_a_token_and_does_not_show_it(monkeypatch, tmp_path, error, token, expected):
    def refuse(*args, **options):
        answer = httpx.Response(401, request=httpx.Request("GET", "http://hub/model"))
        raise error("401 Client Error", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    with pytest.raises(UserError) as caught:
        model_folder("embedder.model", "some/model", None, str(tmp_path), "embedder=minilm")
    line = str(caught.value)
    assert expected in line
    assert "embedder.model=some/model" in line and "environment variable HF_TOKEN" in line
    assert "hf_abc" not in line and "\n" not in line


def test_a_folder_and_a_path_that_is_none(tmp_path):
    with pytest.raises(UserError, match="the folder has no model"):
        model_folder("embedder.model", str(tmp_path), None, str(tmp_path), "embedder=minilm")
    (tmp_path / "config.json").write_text("{}")
    assert model_folder("embedder.model", str(tmp_path), None, str(tmp_path), "embedder=minilm") == str(tmp_path)
