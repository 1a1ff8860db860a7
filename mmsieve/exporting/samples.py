"""The kept samples of one source shard, with their final captions, as bytes ready for a tar.

Only rewritten samples change: their `txt` is the final caption, and their `json` says what the
caption was and how it was judged. Everything else stays as it is, to the byte.

A caption becomes KEY.<image> KEY.txt KEY.json, a document KEY.json and KEY.<n>.<image>, the layouts
that `mmsieve.read` reads. Members never get a name that leaves a folder or splits at the wrong dot.
"""

import base64
import json
import math
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import polars as pl

from mmsieve import tables
from mmsieve.decisions import Kept
from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.identity import TableSource
from mmsieve.images import extension_of
from mmsieve.read import ReadOptions, Record, parse_record
from mmsieve.read.json_items import parse_object
from mmsieve.read.shards import open_shard
from mmsieve.read.tar import BLOCK, Member, TarGroup, index_tar
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import TAR, Shard, local_path
from mmsieve.tables import Header

# Final captions of an assessment table, put in the place of those that a sample has

_COLUMNS = {
    "key": pl.String,
    "status": pl.String,
    "caption": pl.String,
    "final_caption": pl.String,
    "rewritten": pl.Boolean,
    "overall_score": pl.Float32,
    "place": pl.Int64,
}
_SampleName: TypeAlias = int | str
"""A sample in its shard: its place in the source file, or its key where that is all."""


@dataclass(frozen=True, slots=True)
class CaptionChange:
    """A caption's successor."""

    key: str
    text: str
    original: str
    score: float

    @property
    def identity(self) -> str:
        """What digests are made of, in the words that journals have had from the first."""
        return f"Change(text={self.text!r}, original={self.original!r}, score={self.score!r})"

    @property
    def fields(self) -> dict[str, Any]:
        """What the json member is to say of it."""
        return {"original_caption": self.original, "overall_score": self.score}

    def annotate(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Metadata with these fields; of a caption that was rewritten before, the first stays."""
        kept = {k: metadata[k] for k in ("original_caption",) if k in metadata}
        return metadata | self.fields | kept

    def json_member(self, data: bytes | None) -> bytes:
        """The json member, or a new one, with these fields; one that is no object as it is."""
        if data is None:
            return json.dumps(self.fields).encode()
        try:
            metadata = parse_object(data)
        except SampleError:
            return data
        if metadata.keys() & self.fields.keys():
            return json.dumps(self.annotate(metadata)).encode()
        head = data.decode("utf-8-sig").rstrip().removesuffix("}").rstrip()
        comma = ", " if metadata else ""
        return (head + comma + json.dumps(self.fields)[1:]).encode()


class FinalCaptions:
    """The captions of a table that `enhance` wrote; as decisions, they keep every sample."""

    def __init__(self, path: Path) -> None:
        """Raises RequestError where there is no such table."""
        self.label = f"--captions {path}"
        self._files = tables.table_files(path) if path.is_dir() else {}
        if not self._files:
            raise RequestError(f"{self.label}: no table there; make it with enhance")
        self._headers = {shard: self._check(file) for shard, file in self._files.items()}
        self.limit = next((h.limit for h in self._headers.values() if h.limit), None)
        """Set where they are of a trial run."""

    @property
    def shards(self) -> Sequence[str]:
        """The names of all shards, sorted."""
        return sorted(self._files)

    def source(self, shard: str) -> TableSource:
        """What is known of the shard's source."""
        return self._headers[shard].of_source

    def kept(self, shard: str) -> list[Kept]:
        """The samples of a shard, each once, in the order of the rows."""
        rows = self._read(shard, ("key", "status", "place"))
        rows = rows.filter(pl.col("status") != Status.DUPLICATE_KEY.value)
        return list(map(Kept, rows["place"].to_list(), rows["key"].to_list()))

    def changes(self, shard: str) -> dict[int, CaptionChange]:
        """Place -> what becomes of the sample's caption, for those that change."""
        if shard not in self._files:
            raise RequestError(f"{self.label}: none for the shard {shard}: enhance all SOURCEs")
        rows = self._read(shard, _COLUMNS).filter(pl.col("rewritten").fill_null(False))
        if lost := [column.name for column in rows if column.has_nulls()]:
            fix = "make it again with enhance"
            raise RequestError(f"{self._files[shard]}: rewrites without {lost[0]}: {fix}")
        made = ("final_caption", "caption", "overall_score")
        return {
            row["place"]: CaptionChange(row["key"], *(row[name] for name in made))
            for row in rows.iter_rows(named=True)
        }

    def _read(self, shard: str, columns: Iterable[str]) -> pl.DataFrame:
        """The rows with their places: of a table of before, which has a row for each sample."""
        types = {name: _COLUMNS[name] for name in columns}
        rows = pl.concat(tables.read_frames([self._files[shard]], types))
        if not rows["place"].is_null().all():
            return rows
        start = self._headers[shard].start
        return rows.with_columns(place=pl.int_range(start, start + rows.height))

    def _check(self, file: Path) -> Header:
        """Raise RequestError unless a file is of enhance; returns its header."""
        header = tables.read_header(file)
        if header is None or header.kind != "assessment":
            raise RequestError(f"{self.label}: {file} is no table of enhance")
        with tables.open_file(file) as parquet:
            names = parquet.schema_arrow.names
        missing = [name for name in _COLUMNS if name not in (*names, tables.PLACE)]
        if missing:
            raise RequestError(f"{file}: not of enhance: there is no column {missing[0]}")
        return header


# Samples -> tar members, for sources that aren't tars: images as their files' bytes


def sample_members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member of a sample, in order."""
    key = safe_key(sample.key)
    members = _caption(sample) if sample.kind == "caption" else _document(sample, key)
    for extension, data in members:
        yield f"{key}.{extension}", data


def member_bytes(name: str, data: bytes) -> bytes:
    """A member as it stands in a tar: header, bytes, padding; the same wherever it is made."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def safe_key(key: str) -> str:
    """The key with %XX for what a tar reader would take for something else; reversible."""
    if not key:
        return "%"
    parts = ["".join(map(_escaped, part)) for part in key.split("/")]
    parts = [part.replace("__", "%5F%5F") if part == "__MACOSX" else part for part in parts]
    return "/".join(parts) if all(parts) else "%2F".join(parts)


def is_outside(name: str) -> bool:
    """Whether a tar reader would leave its folder for a member of that name."""
    return name.startswith("/") or ".." in name.split("/")


def inside(name: str) -> str:
    """A name that leaves no folder: %XX in the place of what would; reversible."""
    below = name.lstrip("/")
    parts = ["%2E%2E" if part == ".." else part for part in below.split("/")]
    return "%2F" * (len(name) - len(below)) + "/".join(parts)


def _escaped(letter: str) -> str:
    if letter in "%.\\" or not letter.isprintable():
        return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
    return letter


def _caption(sample: Sample) -> Iterator[tuple[str, bytes]]:
    for part in sample.parts:
        if isinstance(part, Image):
            yield extension_of(part.data), part.data
        else:
            yield "txt", part.text.encode()
    yield "json", _json(sample.metadata)


def _document(sample: Sample, key: str) -> Iterator[tuple[str, bytes]]:
    """Slots in order: a text, or the name of an image; one that can't be had stays a name."""
    images: list[str | None] = []
    texts: list[str | None] = []
    members: list[tuple[str, bytes]] = []
    for slot, part in enumerate(sample.parts):
        texts.append(part.text if isinstance(part, Text) else None)
        if isinstance(part, Text):
            images.append(None)
        elif kind := _kind(part):
            images.append(f"{key}.{slot}.{kind}")
            members.append((f"{slot}.{kind}", part.data))
        else:
            images.append(f"{key}.{slot}.missing")
    yield "json", _json(sample.metadata | {"texts": texts, "images": images})
    yield from members


def _kind(image: Image) -> str | None:
    """The extension of a document's image; None for one that can't be had, or is none."""
    try:
        return extension_of(image.data)
    except SampleError:
        return None


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(_plain(value), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """JSON's own types: bytes as base64, a number that isn't one as null, the rest as text."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


# The kept samples of one source shard, as bytes ready for an output tar

Sizes: TypeAlias = tuple[tuple[str, int], ...]
"""Extension and size of each member."""


@dataclass(frozen=True, slots=True)
class TarSample:
    """A sample as it stands in a tar."""

    key: str
    shard: str
    """The source shard."""
    sizes: Sizes
    data: bytes = field(repr=False)
    """Its members with their headers."""


class KeptReader:
    """Iterates over the kept samples of a shard, in their order.

    A tar's members are copied as they are, header and bytes, but for a caption that `changes`.
    What can't be had is in `problems` at the end, and not raised: the rest is exported.
    """

    def __init__(
        self,
        shard: Shard,
        kept: Sequence[Kept],
        read: ReadOptions,
        changes: Mapping[int, CaptionChange] | None = None,
    ) -> None:
        self.problems: list[str] = []
        self._shard = shard
        self._missing: dict[_SampleName, str] = {
            one.key if one.place is None else one.place: one.key for one in kept
        }
        self._read = read
        self._changes = changes or {}
        self._keys: set[str] = set()

    def __iter__(self) -> Iterator[TarSample]:
        copy = self._from_tar if self._shard.suffix in TAR else self._from_records
        try:
            yield from copy()
        except (ShardError, OSError) as error:
            self.problems.append(str(error))
        if self._missing:
            count, first = len(self._missing), next(iter(self._missing.values()))
            self.problems.append(f"{count} kept samples aren't in it, the first is {first!r}")

    def _is_kept(self, place: int, key: str) -> bool:
        """Whether the sample at a place is one of those that are kept, and not yet taken."""
        name: _SampleName = place if self._missing.get(place) == key else key
        return self._missing.pop(name, None) is not None

    def _from_tar(self) -> Iterator[TarSample]:
        with local_path(self._shard) as path, Path(path).open("rb") as file:
            index = index_tar(file)
            for place, group in enumerate(index.groups):
                if group.is_duplicate or not self._is_kept(place, group.key):
                    continue
                new: dict[str, bytes] = {}
                if is_outside(group.key):
                    new = {ending: _bytes_of(file, own) for ending, own in group.members.items()}
                    group = replace(group, key=inside(group.key), name=inside(group.name))
                if change := self._changes.get(place):
                    try:
                        new |= _changed_members(file, group, change)
                    except SampleError as error:
                        self.problems.append(f"{group.key!r} keeps its caption: {error}")
                sizes, data = _members(file, group, new)
                yield TarSample(group.key, self._shard.name, sizes, data)
            if index.problem is not None:
                raise ShardError(index.problem)

    def _from_records(self) -> Iterator[TarSample]:
        with open_shard(self._shard, self._read) as reader:
            for place, record in enumerate(reader.records, self._shard.start):
                if record.problem is not None or not self._is_kept(place, record.key):
                    continue
                try:
                    sample = parse_record(reader.parse, record)
                    if change := self._changes.get(place):
                        sample = _with_caption(sample, change)
                    sample.metadata.update(_more_metadata(record))
                    members = list(sample_members(self._with_own_key(sample, place)))
                except SampleError as error:
                    self.problems.append(f"{record.key!r} left out: {error}")
                    continue
                key = members[0][0].partition(".")[0]
                sizes = tuple((n.removeprefix(key + "."), len(data)) for n, data in members)
                data = b"".join(member_bytes(name, data) for name, data in members)
                yield TarSample(key, self._shard.name, sizes, data)

    def _with_own_key(self, sample: Sample, place: int) -> Sample:
        """The sample under a key that no other of the shard has: a tar can't hold one twice."""
        key = sample.key
        if key in self._keys:
            key = f"{key}-{place:09d}"
        self._keys.add(key)
        return replace(sample, key=key)


def _changed_members(file: BinaryIO, group: TarGroup, change: CaptionChange) -> dict[str, bytes]:
    """Extension -> bytes of the members that another caption changes or adds."""
    own = group.members.get("json")
    data = None if own is None else _bytes_of(file, own)
    return {"txt": change.text.encode(), "json": change.json_member(data)}


def _bytes_of(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.data)
    return file.read(member.size)


def _members(file: BinaryIO, group: TarGroup, new: dict[str, bytes]) -> tuple[Sizes, bytes]:
    """The blocks of a sample's members, as they stand in the archive but for those in `new`."""
    sizes: dict[str, int] = {}
    blocks: list[bytes] = []
    for name in {**group.members, **new}:
        if name in new:
            sizes[name] = len(new[name])
            blocks.append(member_bytes(f"{group.name}.{name}", new[name]))
            continue
        member = group.members[name]
        sizes[name] = member.size
        file.seek(member.start)
        data = file.read(member.stop - member.start)
        if len(data) < member.data - member.start + member.size:
            raise ShardError(f"ends inside {group.key!r}: it has changed")
        blocks.append(data + bytes(-len(data) % BLOCK))  # the last one's padding may be cut off
    return tuple(sizes.items()), b"".join(blocks)


def _with_caption(sample: Sample, change: CaptionChange) -> Sample:
    images = tuple(part for part in sample.parts if isinstance(part, Image))
    metadata = change.annotate(sample.metadata)
    return replace(sample, parts=(*images, Text(change.text)), metadata=metadata)


def _more_metadata(record: Record) -> dict[str, Any]:
    """A document's `image_info` of MMC4, by a name that no reader takes for that of OBELICS."""
    if "line" not in record.fields:
        return {}
    return {"mmc4_image_info": parse_object(record.fields["line"]).get("image_info")}
