"""Whether the embedder here is the one of a folder, and whether its model is here."""

import json
from typing import Any

from omegaconf import DictConfig

from near.common.config import differences
from near.common.moved import class_names
from near.embedding.embed import embedder_of
from near.embedding.embedders.base import Embedder
from near.models.hub import download_of
from near.searching.settings import SearchSettings
from near.selection.verifying.checks import FAULTS, Check, Settings, failed, impossible, passed, reason

CHUNK = 256  # texts that are embedded at a time: fewer, so that the time limit is kept


def check_embedder(search: SearchSettings, settings: Settings, known: dict) -> tuple[Embedder | None, Check]:
    """The embedder, and whether its files and options are those of the manifest."""
    name, options = "embedder", search.embedder.copy()
    if options.get("dtype") == "auto" and known.get("dtype") in ("float32", "bfloat16", "float16"):
        options.dtype = known["dtype"]  # auto decides by the machine
    if "chunk" in options and settings.limit is not None:
        options.chunk = min(options.chunk, CHUNK)
    try:
        model = options.get("model")
        if download := needed_download(options, settings):
            return None, impossible(name, download)
        embedder = embedder_of(options, settings.cache_dir)
        signature = plain(embedder.signature)
    except (*FAULTS, ModuleNotFoundError) as error:
        return None, impossible(name, reason(error))
    if differing := differences(plain(known), signature):
        return None, failed(
            name, f"another one: {'; '.join(differing[:3])}; name the right one with embedder.model=FOLDER"
        )
    files = f", files {signature['files'][:12]}" if "files" in signature else ""
    return embedder, passed(name, f"{model or signature.get('embedder')}{files}")


def needed_download(embedder: DictConfig, settings: Settings) -> str | None:
    """Why the embedder's model can't be used without a download; None if it can."""
    if embedder.get("model") is None or settings.download:
        return None
    download = download_of(str(embedder.model), embedder.get("revision"), settings.cache_dir)
    if download is None:
        return None
    return f"{download} would have to be downloaded; add download=true, or embedder.model=FOLDER"


def plain(value: object) -> Any:
    """A value as JSON has it, with classes by their names."""
    return class_names(json.loads(json.dumps(value)))
