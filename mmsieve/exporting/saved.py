"""Folders that `datasets` saved: what lies beside their Arrow files, for those that are written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsieve.exporting.captions import ORIGINAL, SCORE
from mmsieve.exporting.rows import ARROW
from mmsieve.exporting.tars import digest
from mmsieve.outputs import write_text
from mmsieve.validated import OBJECT, read_json_file

_STATE, _INFO, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
_SIZES = ("splits", "download_checksums", "download_size", "dataset_size", "size_in_bytes")
"""What is true of the whole only."""
_FIX = "not as `datasets` saves it"


def save_again(out: Path, written: Mapping[str, str], with_captions: bool) -> None:
    """Make folders of `load_from_disk` of exported Arrow files, where they came from such.

    `written`: path of a source file -> the name of what was written of it, below `out`. Raises
    RequestError where what lies beside a source isn't what `datasets` writes.
    """
    folders: dict[Path, dict[str, str]] = {}
    for source, name in written.items():
        if name.endswith(ARROW) and Path(source).with_name(_STATE).is_file():
            folders.setdefault(Path(source).parent, {})[Path(source).name] = name
    splits: dict[tuple[Path, Path], list[str]] = {}
    for folder, names in folders.items():
        place = (out / next(iter(names.values()))).parent
        _save(folder, place, [*names], with_captions)
        if (folder.parent / _SPLITS).is_file() and place != out:
            splits.setdefault((folder.parent, place.parent), []).append(place.name)
    for (_, place), found in splits.items():
        write_text(place / _SPLITS, json.dumps({"splits": found}))


def _save(folder: Path, place: Path, names: list[str], with_captions: bool) -> None:
    state: dict[str, Any] = read_json_file(folder / _STATE, OBJECT, _FIX)
    order = [one.get("filename") for one in state.get("_data_files", [])]
    state["_data_files"] = [{"filename": name} for name in order if name in names]
    # of other data than before: `datasets` calls what it caches by this
    state["_fingerprint"] = digest([str(state.get("_fingerprint")), str(place), *names])[:16]
    write_text(place / _STATE, json.dumps(state, indent=2))
    if not (folder / _INFO).is_file():
        return
    info: dict[str, Any] = read_json_file(folder / _INFO, OBJECT, _FIX)
    info = {name: value for name, value in info.items() if name not in _SIZES}
    if with_captions and isinstance(info.get("features"), dict):
        added = {ORIGINAL: "string", SCORE: "float32"}
        told = {name: {"dtype": type_, "_type": "Value"} for name, type_ in added.items()}
        info["features"] = {**info["features"], **(told | info["features"])}
    write_text(place / _INFO, json.dumps(info, indent=2))
