"""The chosen items of instruction files, written in the form in which they came.

An item is found by its place in its file, never by its key: ids repeat in the files of the field.
JSON items keep their bytes, Parquet rows their columns, types and metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmsieve.errors import MmsieveError, RequestError
from mmsieve.exporting.items import ITEM_FILES, form_of, plain_name, write_items
from mmsieve.exporting.pictures import ImageCopies, image_folders, write_manifests_again
from mmsieve.exporting.rows import PARQUET, ItemsOf, Places, read_schema
from mmsieve.identity import SourceFiles, TableSource
from mmsieve.manifests import read_manifest
from mmsieve.outputs import check_folder, check_name
from mmsieve.read import ReadOptions
from mmsieve.read.shards import split_files
from mmsieve.selection.groups import Bools
from mmsieve.selection.pool import RatedSamples
from mmsieve.sources import READ, Shard, find_files, suffix_of
from mmsieve.stores.paths import url_of
from mmsieve.tables import TableFile
from mmsieve.wording import counted


@dataclass(frozen=True)
class SubsetRequest:
    """Which files hold the rated items, and where the chosen ones go."""

    data: tuple[Path, ...]
    out: Path
    listed: tuple[str, ...] = ()
    """What was asked for as data: files, and manifests that list some of them."""
    with_images: bool = False
    images: Path | None = None
    """The folder of the images that are copied, where no manifest says it."""

    @property
    def is_folder(self) -> bool:
        """Whether each file's items go into a file of its name."""
        return self.out.suffix not in ITEM_FILES

    @property
    def outputs(self) -> dict[Path, list[Path]]:
        """File to write -> the files whose items it holds."""
        if self.is_folder:
            return {self.out / plain_name(path): [path] for path in self.data}
        return {self.out: list(self.data)}

    def check(self, overwrite: bool) -> None:
        """Raise RequestError where the chosen items can't be written as asked."""
        if not self.data:
            raise RequestError("--subset: say --data FILE too, the items that are chosen from")
        if self.is_folder and suffix_of(str(self.out)) in READ and not self.out.is_dir():
            kinds = ", ".join(ITEM_FILES)
            raise RequestError(f"--subset {self.out}: not one of {kinds}, and no folder's name")
        if self.is_folder and len(self.outputs) < len(self.data):
            raise RequestError(
                f"--subset {self.out}: two files of --data have one name: name a file for all"
            )
        for out, files in self.outputs.items():
            check_name(out, "--subset")
            if any(out.resolve() == path.resolve() for path in files):
                raise RequestError(f"--subset {out}: is the file of --data: choose another name")
            if out.is_dir():
                raise RequestError(f"--subset {out}: is a folder; name a file in it")
            if out.exists() and not overwrite:
                raise RequestError(f"--subset {out}: exists: choose another name, or --overwrite")
            self._check_kinds(out, files)
        if self.with_images:
            if not self.is_folder:
                raise RequestError("--with-images: goes into a folder: say --subset DIR")
            _ = self.shards
        folder = self.out if self.is_folder else self.out.parent
        check_folder(folder.absolute(), "--subset")

    @property
    def read(self) -> ReadOptions:
        """How items are read to see which images they name."""
        return ReadOptions(images=self.images, kinds=("instruction",))

    @cached_property
    def shards(self) -> list[Shard]:
        """The shards of all files; raises RequestError where their images are nowhere known."""
        files = [file for source in self.listed for file in find_files([source]).files]
        return [shard for file in files for shard in split_files((file,), self.read)]

    def _check_kinds(self, out: Path, files: Sequence[Path]) -> None:
        tables = [path for path in files if form_of(path) == PARQUET]
        if len(tables) not in (0, len(files)) or bool(tables) != (out.suffix == PARQUET):
            raise RequestError(
                f"--subset {out}: Parquet comes out as Parquet, JSON as .json or .jsonl; name a "
                "folder for a file of each"
            )
        schemas = [read_schema(path) for path in tables]
        if any(not schema.equals(schemas[0]) for schema in schemas):
            raise RequestError(f"--subset {out}: the columns of --data differ: name a folder")


def data_files(data: Sequence[Path]) -> tuple[Path, ...]:
    """The files of items, those that manifests among them list; RequestError for no such file."""
    manifests = {path: read_manifest(str(path)) for path in data}
    listed = (
        (p, [Path(one.source) for one in m.files] if m else [p]) for p, m in manifests.items()
    )
    found = tuple(path for _, paths in listed for path in paths)
    for path in found:
        if not path.is_file():
            raise RequestError(f"--data {path}: no such file; give a JSON list, JSONL or Parquet")
        if form_of(path) not in ITEM_FILES:
            raise RequestError(f"--data {path}: not one of {', '.join(ITEM_FILES)}")
    return found


def write_subset(rated: RatedSamples, chosen: Bools, request: SubsetRequest) -> list[str]:
    """Write the chosen items, in the order of their files; returns what to say of it."""
    wanted, notes = _places(rated, chosen, request.data)
    for out, files in request.outputs.items():
        write_items(out, [ItemsOf(path, wanted[path], form_of(path)) for path in files])
    empty = [str(path) for path in request.data if not len(wanted[path])]
    if request.is_folder:
        notes += _write_around(wanted, request)
    return notes + ([f"--subset: none of {', '.join(empty)} are chosen"] if empty else [])


def _write_around(wanted: dict[Path, Places], request: SubsetRequest) -> list[str]:
    """Copy images, if they are asked for, and list files again; raises MmsieveError for a part."""
    urls = {path: url_of(path) for path in request.data}
    written: dict[str, tuple[str, str | None]] = {
        url: (path.name, None) for path, url in urls.items()
    }
    copies, problems = ImageCopies(request.out), []
    if request.with_images:
        shards = request.shards
        folders = image_folders(shards, request.read, request.out)
        for path, places in wanted.items():
            url = urls[path]
            own = [shard for shard in shards if shard.url == url]
            problems += copies.copy(own, places, request.read, folders[url])
            written[url] = (path.name, str(folders[url].relative_to(request.out)))
    notes = write_manifests_again(request.listed, request.out, written)
    if problems:
        failed = counted(len(problems), "images")
        raise MmsieveError(f"{failed} can't be copied, all else is written: {problems[0]}")
    return [*(copies.notes() if request.with_images else ()), *notes]


def _places(
    rated: RatedSamples, chosen: Bools, data: Sequence[Path]
) -> tuple[dict[Path, Places], list[str]]:
    """File of --data -> places of its chosen items, ascending; RequestError for one not rated."""
    by_url = {url_of(path): path for path in data}
    known = SourceFiles((url, path.stat().st_size) for url, path in by_url.items())
    found: dict[Path, list[Places]] = {path: [] for path in data}
    rated_files: dict[str, Path | None] = {}
    lost, problems, start = 0, [], 0
    for origins, named in rated.named():
        places = named["place"]
        at = 0
        for file, count in origins:
            if file.shard not in rated_files:
                url, problem = known.find(_source(file))
                rated_files[file.shard] = None if problem or url is None else by_url[url]
                problems += [f"{url} {problem}" if url else problem] if problem else []
            part = places.slice(at, count)
            kept = np.flatnonzero(chosen[start + at : start + at + count])
            path = rated_files[file.shard]
            if path is None:
                lost += len(kept)
            elif part.null_count():
                raise RequestError(
                    f"--subset: {file.path} doesn't say where its rows are in {path}: rate again"
                )
            else:
                found[path].append(part.to_numpy()[kept])
            at += count
        start += at
    if not_rated := [path for path in data if path not in rated_files.values()]:
        reason = f" ({problems[0]})" if problems else ""
        raise RequestError(f"--data {not_rated[0]}: its items were not rated{reason}")
    said = f"--subset: {lost:,} of {chosen.sum():,} chosen samples aren't in --data"
    notes = [said] if lost else []
    empty: list[Places] = [np.zeros(0, np.int64)]
    return {path: np.sort(np.concatenate(parts or empty)) for path, parts in found.items()}, notes


def _source(file: TableFile) -> TableSource:
    return file.source or TableSource(file.shard, 0, file.size, None)
