"""Plan: which images are taken, before anything is sent; kept in a file, so that a rerun has it.

A subject is what one request is about: an image, or the images of a document. It is known by its
bytes: the same image under two keys is one subject, and nobody pays for it twice.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image as PillowImage
from pydantic import TypeAdapter

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.generate.prompts import What
from mmsieve.generate.raw_images import ImageSource, RawSample
from mmsieve.images import ImageLimits, decode
from mmsieve.sample import Image
from mmsieve.table import write_atomically

_LIMITS = ImageLimits(min_side=2)
"""An image with a side of one pixel shows nothing: the published scorer leaves it out too."""

_MORE = 64
"""Samples that are drawn at a time to replace unusable ones."""

_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}
"""Of Pillow's formats; all others are named by their format in lower case."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a subject."""

    sha256: str
    """Of the bytes that are stored: those of the source, to the byte."""
    suffix: str
    width: int
    height: int
    data: bytes = field(default=b"", repr=False)
    """Empty in a plan, which would not fit in memory with it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What one request is about."""

    id: str
    source: str
    index: int
    """Place of its sample in the source, from 0."""
    key: str
    pictures: tuple[Picture, ...]

    @property
    def size(self) -> int:
        """Bytes of its images."""
        return sum(len(picture.data) for picture in self.pictures)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A sample that was drawn and has no image that can be shown, and why."""

    source: str
    key: str
    status: str
    error: str


@dataclass(frozen=True)
class Plan:
    """The subjects in the order in which they are read, and what was left out."""

    subjects: tuple[Subject, ...]
    unusable: tuple[Unusable, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> why it can't be read, or not to its end."""
    samples: int = 0
    """Of all sources."""
    twice: int = 0
    """Subjects that were drawn once more, under another key."""
    note: str = ""
    """How they were drawn, where there is more to say."""

    def write(self, path: Path) -> None:
        """Keep the plan in a file."""
        write_atomically(path, lambda temporary: temporary.write_bytes(_PLAN.dump_json(self)))


_PLAN = TypeAdapter(Plan)


def read_plan(path: Path) -> Plan:
    """The plan in a file; raises RequestError where it is damaged."""
    try:
        return _PLAN.validate_json(path.read_bytes())
    except ValueError as error:
        raise RequestError(f"{path}: not a plan of this version; use --overwrite") from error


Draw: TypeAlias = Callable[[int], Sequence[int]]
"""From the number of all samples, counted over the sources in their order, those that are taken,
as positions from 0, the first ones first. Another way to choose images is another draw."""


def random_draw(seed: int) -> Draw:
    """A draw in which every sample has the same chance."""
    return lambda count: np.random.default_rng((seed, 11)).permutation(count).tolist()


def make_plan(
    sources: Sequence[ImageSource], what: What, wanted: int, draw: Draw, max_images: int
) -> Plan:
    """Take `wanted` subjects in the order of a draw; unusable ones are replaced by later ones."""
    failed: dict[str, str] = {}
    counts = [count_samples(source, failed) for source in sources]
    order = draw(sum(counts))
    starts = np.cumsum([0, *counts]).tolist()
    chosen: dict[str, Subject] = {}
    unusable: list[Unusable] = []
    at = twice = 0
    while len(chosen) < wanted and at < len(order):
        drawn = order[at : at + max(wanted - len(chosen), _MORE)]
        at += len(drawn)
        read = dict(_read(sources, starts, set(drawn), what, max_images, failed))
        for sample in drawn:
            found = read.get(sample, [])
            if isinstance(found, Unusable) and len(chosen) < wanted:
                unusable.append(found)
            for subject in found if isinstance(found, list) else ():
                if len(chosen) < wanted:
                    twice += subject.id in chosen
                    chosen.setdefault(subject.id, subject)
    names = {source.name: number for number, source in enumerate(sources)}
    subjects = sorted(chosen.values(), key=lambda s: (names[s.source], s.index))
    return Plan(tuple(subjects), tuple(unusable), failed, sum(counts), twice)


def count_samples(source: ImageSource, failed: dict[str, str]) -> int:
    """The samples of a source; 0 where it can't be read, which `failed` takes."""
    try:
        return source.count()
    except ShardError as error:
        failed[source.name] = str(error)
        return 0


def _read(
    sources: Sequence[ImageSource],
    starts: Sequence[int],
    drawn: set[int],
    what: What,
    max_images: int,
    failed: dict[str, str],
) -> Iterator[tuple[int, list[Subject] | Unusable]]:
    """The drawn samples, counted over all sources, with their subjects or why there are none."""
    for source, start, stop in zip(sources, starts[:-1], starts[1:], strict=True):
        wanted = {sample - start for sample in drawn if start <= sample < stop}
        try:
            for raw in source.read(wanted) if wanted else ():
                yield start + raw.index, _usable(source.name, raw, what, max_images)
        except ShardError as error:
            failed[source.name] = str(error)


def _usable(source: str, raw: RawSample, what: What, most: int) -> list[Subject] | Unusable:
    try:
        return subjects_of(source, raw, what, most)
    except SampleError as error:
        return Unusable(source, raw.key, error.status.value, str(error))


def subjects_of(
    source: str, sample: RawSample, what: What, max_images: int, keep: bool = False
) -> list[Subject]:
    """The subjects in a sample: each of its images, or all together; raises SampleError.

    A document's unusable images are left out. `keep` keeps the bytes.
    """
    if sample.problem is not None:
        raise sample.problem
    pictures: list[Picture] = []
    problem = SampleError(Status.NO_USABLE_IMAGE, "no image")
    for image in sample.images:
        try:
            pictures.append(_picture(image, keep))
        except SampleError as error:
            problem = error
        if what == "documents" and len(pictures) == max_images:
            break
    if not pictures:
        raise problem
    together = [pictures] if what == "documents" else [[picture] for picture in pictures]
    return [
        Subject(_id(what, group), source, sample.index, sample.key, tuple(group))
        for group in together
    ]


def _id(what: What, pictures: Iterable[Picture]) -> str:
    digest = hashlib.sha256("".join(picture.sha256 for picture in pictures).encode())
    return f"{what[0]}{digest.hexdigest()[:20]}"


def _picture(image: Image, keep: bool) -> Picture:
    pixels = decode(image.data, _LIMITS, image.frame)
    if image.frame:  # a page of its own file, which alone can be named by a path
        file = io.BytesIO()
        PillowImage.fromarray(pixels).save(file, "PNG")
        image = Image(file.getvalue())
    with PillowImage.open(io.BytesIO(image.data)) as opened:
        format = opened.format or ""
    return Picture(
        sha256=hashlib.sha256(image.data).hexdigest(),
        suffix=_SUFFIXES.get(format, format.lower()),
        width=pixels.shape[1],
        height=pixels.shape[0],
        data=image.data if keep else b"",
    )
