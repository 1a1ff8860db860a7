"""Manifests: files in which a trainer lists its data files, each with the folder of its images.

LLaVA-OneVision's YAML (`datasets`: `json_path`), InternVL's meta JSON (name -> `annotation`,
`root`) and LLaMA-Factory's dataset_info.json (name -> `file_name`). All files of one are one pool.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmsieve.errors import RequestError

_YAML = (".yaml", ".yml")
_MOST_BYTES = 1 << 24
_NOT_APPLIED = ("sampling_strategy", "repeat_time", "num_samples")
"""How often a trainer reads a file, or which part of it."""
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url")


@dataclass(frozen=True)
class Listed:
    """A data file that a manifest names."""

    source: str
    images: Path | None = None
    """What its image paths are relative to, where the manifest says it."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest names."""

    files: tuple[Listed, ...]
    notes: tuple[str, ...]


def read_manifest(source: str) -> Manifest | None:
    """The manifest in a local file; None where it is none. Raises RequestError for a broken one."""
    path = Path(source)
    is_yaml = path.suffix.lower() in _YAML
    if not is_yaml and path.suffix.lower() != ".json":
        return None
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return None
    entries = list(_entries(_parsed(path, is_yaml)))
    if not entries:
        if is_yaml:
            raise RequestError(f"{path}: no manifest: it lists no `datasets` with a `json_path`")
        return None
    local = [entry for entry in entries if not any(entry.get(name) for name in _ELSEWHERE)]
    files = tuple(listed for entry in local if (listed := _listed(path, entry)))
    notes = [f"{path}: {len(files)} data files"]
    if len(files) < len(entries):
        notes.append(f"{path}: {len(entries) - len(files)} of its entries are no files here")
    unused = sorted({name for entry in local for name in _NOT_APPLIED if entry.get(name)})
    if unused:
        notes.append(f"{path}: {', '.join(unused)} not applied: every item is read, and once")
    if not files:
        raise RequestError(f"{path}: a manifest that names no file here")
    return Manifest(files, tuple(notes))


def _parsed(path: Path, is_yaml: bool) -> Any:
    """What a file holds; None for JSON that is no object, or more than one."""
    try:
        text = path.read_text("utf-8-sig")
        if is_yaml:
            return yaml.safe_load(text)
        return json.loads(text) if text.lstrip().startswith("{") else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if is_yaml:
            raise RequestError(f"{path}: can't be read as YAML: {error}".splitlines()[0]) from error
        return None


def _entries(content: Any) -> Iterator[Mapping[str, Any]]:
    """The entries of a manifest; none where it is none."""
    if not isinstance(content, Mapping):
        return
    datasets = content.get("datasets")
    values = datasets if isinstance(datasets, list) else list(content.values())
    names = ("json_path", "annotation", "file_name", *_ELSEWHERE)
    if all(isinstance(value, Mapping) for value in values):
        yield from (v for v in values if any(isinstance(v.get(name), str) for name in names))


def _listed(manifest: Path, entry: Mapping[str, Any]) -> Listed | None:
    """The file of an entry, and what its trainer takes its image paths to be relative to."""
    if isinstance(name := entry.get("file_name"), str):
        return Listed(str(manifest.parent / name), manifest.parent)
    name = entry.get("annotation") or entry.get("json_path")
    if not isinstance(name, str):
        return None
    root = entry.get("root") or entry.get("images_folder")
    images = _place(manifest, root) if isinstance(root, str) else None
    return Listed(str(_place(manifest, name)), images)


def _place(manifest: Path, name: str) -> Path:
    """A path beside the manifest, or from where the trainer, and this command, is started."""
    beside = manifest.parent / name
    return beside if beside.exists() else Path(name)
