"""What lies around exported items: the image files that they name, manifests that list them.

Image files are copied once each, to the same path beside the items.

So the items need no change, and whoever reads them gives the folder of what was written as that of
their images. Without being asked for, image folders stay where they are.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mmsieve.errors import SampleError
from mmsieve.exporting.rows import Places
from mmsieve.leftovers import hidden_place
from mmsieve.manifests import list_again
from mmsieve.outputs import write_text
from mmsieve.read import ImageFolder, ReadOptions
from mmsieve.read.image_values import image_path
from mmsieve.read.json_items import parse_object
from mmsieve.read.layouts import LAYOUTS
from mmsieve.read.shards import open_shard, options_of
from mmsieve.sources import MANIFEST, Shard
from mmsieve.stores.folders import as_local
from mmsieve.stores.paths import as_path, is_stored, place_of
from mmsieve.wording import counted


def image_folders(shards: Sequence[Shard], read: ReadOptions, out: Path) -> dict[str, Path]:
    """URL of each source file -> the folder that its images are copied to.

    The folder of all that is written; where several folders of images are read, one in it for each.
    Images beside a `metadata` file come beside what is written of it.
    """
    found: dict[str, Path] = {}
    roots: dict[Path, str] = {}
    for shard in shards:
        root = shard.images or read.images
        if root is None:
            found[shard.url] = out / PurePosixPath(shard.name).parent
        elif (place := place_of(root).resolve()) not in roots:
            taken = set(roots.values())
            numbered = (f"{place.name}-{number}" for number in range(2, len(roots) + 3))
            roots[place] = next(n for n in (place.name, *numbered) if n not in taken)
    for shard in shards:
        if root := shard.images or read.images:
            name = roots[place_of(root).resolve()] if len(roots) > 1 else ""
            found[shard.url] = out / name
    return found


def write_manifests_again(
    sources: Iterable[str], out: Path, written: Mapping[str, tuple[str, str | None]]
) -> list[str]:
    """Write the manifests among the sources for what was written of their files; returns notes.

    `written`: as of `list_again`.
    """
    notes = []
    taken = {MANIFEST, *(name for name, _ in written.values())}
    for source in sources:
        text, name = list_again(source, written), Path(source).name
        if text is None or not written:
            continue
        if name in taken:
            notes.append(f"{source}: not written again, as another file has its name")
            continue
        write_text(out / name, text)
        where = (
            "" if any(images for _, images in written.values()) else "; images are where they were"
        )
        notes.append(f"{name} lists the files that were written{where}")
    return notes


@dataclass
class ImageCopies:
    """What was copied of the images that items name."""

    out: Path
    """What is written outside of it isn't."""
    files: set[Path] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    """Absolute paths, and those with `..`, which lead out of any folder."""

    def copy(
        self, shards: Sequence[Shard], places: Places, read: ReadOptions, folder: Path
    ) -> list[str]:
        """Copy the images of the items at some places of a source file, whose shards are given.

        Returns what can't be copied; raises ShardError where the file can't be read.
        """
        problems: list[str] = []
        wanted = set(places.tolist())
        for shard in shards:
            root = options_of(shard, read).images
            if root is None:
                continue
            images = ImageFolder(root)
            for name in _image_names(shard, wanted, read):
                try:
                    self._copy(name, images, folder)
                except SampleError as error:
                    problems.append(str(error))
                except OSError as error:
                    problems.append(f"{name!r} can't be copied: {error}")
        os.sync()  # all of them in one go
        return problems

    def add(self, other: "ImageCopies") -> None:
        """Take in what was copied elsewhere."""
        self.files |= other.files
        self.elsewhere |= other.elsewhere

    def notes(self) -> list[str]:
        """What to say of it."""
        said = [f"beside them: {counted(len(self.files), 'image files')}"] if self.files else []
        if self.elsewhere:
            first = min(self.elsewhere)
            said.append(
                f"left where they are: {counted(len(self.elsewhere), 'images')}, their paths being "
                f"absolute or with .. in them: {first!r:.100}"
            )
        return said

    def _copy(self, name: str, images: ImageFolder, folder: Path) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            self.elsewhere.add(name)
            return
        target = folder / path
        if target in self.files:
            return
        source = images.find(name)
        if is_stored(target):
            self.files.add(as_path(target))
            with as_local(source) as here:
                target.put(here)
            return
        inside = Path(os.path.realpath(target.parent)).is_relative_to(self.out.resolve())
        if not inside:
            raise OSError("a link there leads out of the folder of the export")
        self.files.add(target)
        there = target.stat() if target.exists() else None
        if there is not None and there.st_size == source.stat().st_size:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = hidden_place(target)
        try:
            with as_local(source) as here:
                shutil.copyfile(here, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def _image_names(shard: Shard, wanted: set[int], read: ReadOptions) -> Iterator[str]:
    """The paths of the images of a shard's items at some places."""
    with open_shard(shard, read) as reader:
        images = LAYOUTS[reader.layout].images
        for place, record in enumerate(reader.records, shard.start):
            if place not in wanted:
                continue
            fields: Mapping[str, Any] = record.fields
            with suppress(SampleError):
                fields = parse_object(fields["line"]) if "line" in fields else fields
            for value in images(fields, read):
                if path := image_path(value):
                    yield path
