"""The kept samples of one source shard, with their final captions, as bytes ready for a tar.

Only rewritten samples change: their `txt` is the final caption, and their `json` says what the
caption was and how it was judged. Everything else stays as it is, to the byte.

A caption becomes KEY.<image> KEY.txt KEY.json, a document KEY.json and KEY.<n>.<image>, the layouts
that `mmsieve.read` reads. Members never get a name that leaves a folder or splits at the wrong dot.
Images may all get one name, and be made so, where that is asked for.
"""

import base64
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

from mmsieve.decisions import Kept
from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.exporting.captions import CaptionChange
from mmsieve.images import ENCODED, IMAGE_EXTENSIONS, extension_of, reencode
from mmsieve.read import ReadOptions, Record, parse_record
from mmsieve.read.captions import image_member_name
from mmsieve.read.json_items import parse_object
from mmsieve.read.layouts import LAYOUTS
from mmsieve.read.shards import open_shard
from mmsieve.read.tar import BLOCK, Member, TarGroup, index_tar
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import TAR, Shard, local_path
from mmsieve.wording import counted

# What images are called


@dataclass(frozen=True)
class ImageNames:
    """What the images of an export are called, whatever format they are of."""

    extension: str | None = None
    """By default each has that of its format."""
    as_named: bool = False
    """Images of other formats are made anew in that of their name."""

    def check(self) -> None:
        """Raise RequestError for a name that no image can have, or be made in."""
        if self.as_named and self.extension is None:
            raise RequestError("--reencode: say --image-names too, the format of all images")
        if self.extension is None:
            return
        if self.extension not in IMAGE_EXTENSIONS:
            kinds = ", ".join(IMAGE_EXTENSIONS)
            raise RequestError(f"--image-names {self.extension}: not one of {kinds}")
        if self.as_named and self.extension not in ENCODED:
            kinds = ", ".join(ENCODED)
            raise RequestError(f"--reencode: writes {kinds}, not {self.extension}")

    @property
    def words(self) -> tuple[str, ...]:
        """What digests are made of; nothing for what was always so."""
        if self.extension is None:
            return ()
        return (f"--image-names {self.extension}", *(("--reencode",) if self.as_named else ()))

    def of(self, data: bytes) -> tuple[str, bytes]:
        """An image's extension and bytes; raises SampleError for what is no image."""
        kind = extension_of(data)
        if self.as_named and self.extension and ENCODED[self.extension] != kind:
            data = reencode(data, self.extension)
        return self.extension or kind, data


OWN_NAMES = ImageNames()
T = TypeVar("T")


# Samples -> tar members, for sources that aren't tars: images as their files' bytes


def sample_members(sample: Sample, names: ImageNames = OWN_NAMES) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member of a sample, in order; raises SampleError."""
    key = safe_key(sample.key)
    is_caption = sample.kind == "caption"
    members = _caption(sample, names) if is_caption else _document(sample, key, names)
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


def _caption(sample: Sample, names: ImageNames) -> Iterator[tuple[str, bytes]]:
    for part in sample.parts:
        if isinstance(part, Image):
            yield names.of(part.data)
        else:
            yield "txt", part.text.encode()
    yield "json", plain_json(sample.metadata)


def _document(sample: Sample, key: str, names: ImageNames) -> Iterator[tuple[str, bytes]]:
    """Slots in order: a text, or the name of an image; one that can't be had stays a name."""
    images: list[str | None] = []
    texts: list[str | None] = []
    members: list[tuple[str, bytes]] = []
    for slot, part in enumerate(sample.parts):
        texts.append(part.text if isinstance(part, Text) else None)
        if isinstance(part, Text):
            images.append(None)
        elif found := usable_image(part, names):
            images.append(f"{key}.{slot}.{found[0]}")
            members.append((f"{slot}.{found[0]}", found[1]))
        else:
            images.append(f"{key}.{slot}.missing")
    yield "json", plain_json(sample.metadata | {"texts": texts, "images": images})
    yield from members


def usable_image(image: Image, names: ImageNames) -> tuple[str, bytes] | None:
    """Extension and bytes of a document's image; None for one that can't be had, or is none."""
    try:
        return names.of(image.data)
    except SampleError:
        return None


def plain_json(value: dict[str, Any]) -> bytes:
    """Metadata as JSON, whatever they hold: bytes as base64, what isn't JSON's as text."""
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


# The kept samples of one source shard, as they are, or as bytes ready for an output tar

_SampleName: TypeAlias = int | str
"""A sample in its shard: its place in the source file, or its key where that is all."""
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


NOT_OF_PAIRS = "--image-names is for caption pairs: documents and instructions name their images"


@dataclass(frozen=True, slots=True)
class RenamedImage:
    """The image of a pair that isn't copied as it is."""

    before: str
    """Its member's extension."""
    name: str
    data: bytes = field(repr=False)


class KeptReader:
    """Iterates over the kept samples of a shard, in their order, as bytes of a tar.

    A tar's members are copied as they are, header and bytes, but for a caption that `changes`.
    What can't be had is in `problems` at the end, and not raised: the rest is exported.
    """

    def __init__(
        self,
        shard: Shard,
        kept: Sequence[Kept],
        read: ReadOptions,
        changes: Mapping[int, CaptionChange] | None = None,
        names: ImageNames = OWN_NAMES,
    ) -> None:
        self.problems: list[str] = []
        self._shard = shard
        self._missing: dict[_SampleName, str] = {
            one.key if one.place is None else one.place: one.key for one in kept
        }
        self._read = read
        self._changes = changes or {}
        self._names = names
        self._keys: set[str] = set()

    def __iter__(self) -> Iterator[TarSample]:
        is_tar = self._shard.suffix in TAR
        yield from self._until_broken(self._from_tar() if is_tar else self._as_members())

    def samples(self) -> Iterator[Sample]:
        """The same, parsed: under keys that a tar could hold once, with their final captions."""
        yield from self._until_broken(self._from_records())

    def _until_broken(self, found: Iterator[T]) -> Iterator[T]:
        try:
            yield from found
        except (ShardError, OSError) as error:
            self.problems.append(str(error))
        if self._missing:
            lost, first = len(self._missing), next(iter(self._missing.values()))
            self.problems.append(f"not in it: {counted(lost, 'kept samples')}, first {first!r}")

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
                try:
                    image = None if self._names.extension is None else self._image(file, group)
                except SampleError as error:
                    self.problems.append(f"{group.key!r} left out: {error}")
                    continue
                sizes, data = _members(file, group, new, image)
                yield TarSample(group.key, self._shard.name, sizes, data)
            if index.problem is not None:
                raise ShardError(index.problem)

    def _image(self, file: BinaryIO, group: TarGroup) -> RenamedImage | None:
        """A pair's image under the name of all; raises ShardError for what is no pair."""
        before = image_member_name(group.members, self._read)
        if "json" in group.members and _names_members(_bytes_of(file, group.members["json"])):
            raise ShardError(NOT_OF_PAIRS)
        if before is None or (before == self._names.extension and not self._names.as_named):
            return None
        name, data = self._names.of(_bytes_of(file, group.members[before]))
        if name in group.members and name != before:
            message = f"it has another image under the name {name}"
            raise SampleError(Status.IMAGE_UNDECODABLE, message)
        return RenamedImage(before, name, data)

    def _from_records(self) -> Iterator[Sample]:
        with open_shard(self._shard, self._read) as reader:
            for place, record in enumerate(reader.records, self._shard.start):
                if record.problem is not None or not self._is_kept(place, record.key):
                    continue
                try:
                    sample = parse_record(reader.parse, record)
                    if change := self._changes.get(place):
                        sample = _with_caption(sample, change)
                    sample.metadata.update(_more_metadata(record))
                except SampleError as error:
                    self.problems.append(f"{record.key!r} left out: {error}")
                    continue
                yield self._with_own_key(sample, place)

    def _as_members(self) -> Iterator[TarSample]:
        for sample in self._from_records():
            try:
                members = list(sample_members(sample, self._names))
            except SampleError as error:
                self.problems.append(f"{sample.key!r} left out: {error}")
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


def _names_members(data: bytes) -> bool:
    """Whether a json says which members its images are, as those of documents do."""
    fields = {"json": data}
    return any(LAYOUTS[name].looks_right(fields) for name in ("documents", "instruction-tar"))


def _members(
    file: BinaryIO, group: TarGroup, new: dict[str, bytes], image: RenamedImage | None
) -> tuple[Sizes, bytes]:
    """The blocks of a sample's members, as they stand in the archive but for those in `new`."""
    sizes: dict[str, int] = {}
    blocks: list[bytes] = []
    for name in {**group.members, **new}:
        if image is not None and name == image.before:
            sizes[image.name] = len(image.data)
            blocks.append(member_bytes(f"{group.name}.{image.name}", image.data))
            continue
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
    """What MMC4 says of a document's images: `image_info` by a name that no reader takes for that
    of OBELICS, and `similarity_matrix` where there is one."""
    if "line" not in record.fields:
        return {}
    document = parse_object(record.fields["line"])
    more = {"mmc4_image_info": document.get("image_info")}
    name = "similarity_matrix"
    return more | ({name: document[name]} if name in document else {})
