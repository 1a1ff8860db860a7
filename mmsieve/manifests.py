"""Manifests: files in which a trainer lists its data files, each with the folder of its images.

LLaVA-OneVision's YAML (`datasets`: `json_path`), InternVL's meta JSON (name -> `annotation`,
`root`) and LLaMA-Factory's dataset_info.json (name -> `file_name`, and what its fields are called).
All files of one are one pool, and can be listed again once they have been exported.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmsieve.errors import RequestError
from mmsieve.wording import counted

_YAML = (".yaml", ".yml")
_MOST_BYTES = 1 << 24
_NOT_APPLIED = ("sampling_strategy", "repeat_time", "num_samples")
"""How often a trainer reads a file, or which part of it."""
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "cloud_file_name", "script_url")


_FIELDS = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
_FIELDS |= {name: name for name in ("images", "videos", "audios", "chosen", "rejected")}
"""LLaMA-Factory's words for a file's fields -> what they are called where nothing is said."""
_TAGS = {"user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"}


@dataclass(frozen=True)
class FieldNames:
    """What the fields of a file's items are called, where a manifest says it."""

    usual: tuple[tuple[str, str], ...]
    """Each field's name, and the usual one."""
    hidden: tuple[str, ...]
    """Usual names that are none of the conversation's here."""
    turns: str
    """The usual name of the list of turns."""
    tags: tuple[str, str]
    """The fields of a turn for whose it is, and for its text."""
    roles: tuple[tuple[str, str], ...]
    """Whose a turn is, and the usual word."""

    def apply(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """An item with its fields under usual names."""
        usual = dict(self.usual)
        named = {name: value for name, value in item.items() if name in usual}
        other = {n: v for n, v in item.items() if n not in usual and n not in self.hidden}
        found = other | {usual[name]: value for name, value in named.items()}
        if isinstance(turns := found.get(self.turns), list):
            found[self.turns] = list(map(self._turn, turns))
        return found

    def own(self, names: Iterable[str]) -> list[str]:
        """The file's own names of columns with these usual ones."""
        own = {usual: name for name, usual in self.usual}
        return [own.get(name, name) for name in names]

    def rename(self, names: Iterable[str]) -> list[str]:
        """The usual names of columns, the hidden ones under names that no layout knows."""
        usual = dict(self.usual)
        return [usual.get(n, f"{n} (unused)" if n in self.hidden else n) for n in names]

    def _turn(self, turn: Any) -> Any:
        if not isinstance(turn, Mapping) or not set(self.tags) <= turn.keys():
            return turn
        role, content = (turn[tag] for tag in self.tags)
        names = ("from", "value") if self.turns == "conversations" else ("role", "content")
        return dict(zip(names, (dict(self.roles).get(role, role), content), strict=True))


@dataclass(frozen=True)
class Listed:
    """A data file that a manifest names."""

    source: str
    images: Path | None = None
    """What its image paths are relative to, where the manifest says it."""
    names: FieldNames | None = None


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
    notes = [f"{path}: {counted(len(files), 'data files')}"]
    if len(files) < len(entries):
        notes.append(f"{path}: {len(entries) - len(files):,} of its entries are no files here")
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
        return Listed(str(manifest.parent / name), manifest.parent, _field_names(entry))
    name = entry.get("annotation") or entry.get("json_path")
    if not isinstance(name, str):
        return None
    root = entry.get("root") or entry.get("images_folder")
    images = _place(manifest, root) if isinstance(root, str) else None
    return Listed(str(_place(manifest, name)), images)


def _field_names(entry: Mapping[str, Any]) -> FieldNames | None:
    """What LLaMA-Factory's `columns` and `tags` say; None where they say nothing.

    Fields that `columns` doesn't name are not read, as there.
    """
    columns, tags = entry.get("columns"), entry.get("tags")
    columns = columns if isinstance(columns, Mapping) else {}
    tags = tags if isinstance(tags, Mapping) else {}
    if not columns and not tags:
        return None
    own = (str(tags.get("role_tag") or "from"), str(tags.get("content_tag") or "value"))
    turns = "conversations" if own[0] == "from" else "messages"
    known = _FIELDS | {"messages": turns}
    asked = columns or {"messages": "conversations"}
    usual = [(str(asked[word]), name) for word, name in known.items() if asked.get(word)]
    texts = ("instruction", "input", "output", "history", "conversations", "messages")
    taken = {name for pair in usual for name in pair}
    roles = [(str(tags.get(tag) or word), word) for tag, word in _TAGS.items()]
    hidden = tuple(name for name in texts if name not in taken)
    return FieldNames(tuple(usual), hidden, turns, own, tuple(roles))


def list_again(source: str, written: Mapping[str, tuple[str, str | None]]) -> str | None:
    """A manifest that lists exported files in the place of theirs; None for what is no manifest.

    `written`: absolute path of a data file -> the path of what was written of it, relative to the
    new manifest, and that of its images, if they were copied. Entries of other files are left out.
    """
    path = Path(source)
    is_yaml = path.suffix.lower() in _YAML
    if read_manifest(source) is None:
        return None
    content = _parsed(path, is_yaml)
    listed = content.get("datasets")
    if isinstance(listed, list):
        content["datasets"] = [new for entry in listed if (new := _again(path, entry, written))]
    else:
        found = {name: _again(path, entry, written) for name, entry in content.items()}
        content = {name: entry for name, entry in found.items() if entry}
    if is_yaml:
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _again(
    manifest: Path, entry: Mapping[str, Any], written: Mapping[str, tuple[str, str | None]]
) -> dict[str, Any] | None:
    listed = _listed(manifest, entry)
    place = None if listed is None else written.get(os.path.abspath(listed.source))  # noqa: PTH100
    if place is None:
        return None
    name, images = place
    field = next(n for n in ("file_name", "annotation", "json_path") if entry.get(n))
    new = {**entry, field: name}
    root = next((n for n in ("root", "images_folder") if entry.get(n)), None)
    if root:
        new[root] = images or str(_place(manifest, entry[root]).absolute())
    return new


def _place(manifest: Path, name: str) -> Path:
    """A path beside the manifest, or from where the trainer, and this command, is started."""
    beside = manifest.parent / name
    return beside if beside.exists() else Path(name)
