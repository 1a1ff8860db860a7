"""Files of model folders: JSON, safetensors headers, the Hugging Face cache. No torch here."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mmsieve.errors import RequestError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "merges.txt", "tokenizer.model")
"""What is fetched of a hub repository: never a pickle, never code."""
HUB_CONFIGS = ("config.json", "preprocessor_config.json")
"""What is fetched where only the settings are needed."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; raises RequestError."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{file.parent}: no {file.name} in it") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(f"{file}: not a JSON object")
    return value


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> safetensors file; one file, or shards with an index.

    Raises RequestError where there are only pickles, which mmsieve never loads, or nothing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map", {})
        files = {str(name): folder / Path(str(file)).name for name, file in names.items()}
    else:
        found = sorted(folder.glob("*.safetensors"))
        files = {name: file for file in found for name in _names(file)}
    missing = sorted({file.name for file in files.values() if not file.is_file()})
    if missing:
        raise RequestError(f"{folder}: {missing[0]} is missing (named by {index.name})")
    if files:
        return files
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles:
        advice = "which mmsieve never loads: save the model as safetensors"
        raise RequestError(f"{folder}: only pickled weights ({pickles[0]}), {advice}")
    raise RequestError(f"{folder}: no *.safetensors in it")


def tensor_shape(file: Path, name: str) -> tuple[int, ...]:
    """The shape of a tensor, from the file's header."""
    with safe_open(file, "np") as tensors:
        return tuple(tensors.get_slice(name).get_shape())


def hub_folder(name: str, files: Sequence[str] = HUB_FILES) -> Path | None:
    """The local folder of a hub repository: from the cache, else downloaded; None where neither.

    Only `files` are fetched. `HF_HUB_OFFLINE=1` keeps to the cache.
    """
    if not HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    for cached in (True, False):
        try:
            folder = snapshot_download(name, allow_patterns=[*files], local_files_only=cached)
        except (OSError, ValueError):  # what every error of the hub is
            continue
        if any(Path(folder).glob("config.json" if files == HUB_CONFIGS else "*.safetensors")):
            return Path(folder)
    return None


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, "np") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{file}: {error}") from error
