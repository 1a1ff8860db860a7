"""A report: a section per table, by its kind, with samples as they read, as one HTML file."""

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from io import BytesIO
from itertools import chain
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image as PillowImage

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError, SampleError, ShardError, is_order_to_end
from mmsieve.identity import SourceShards, TableSource
from mmsieve.images import ImageLimits, decode
from mmsieve.read import ReadOptions, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.reporting import assessments, ratings, scores
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.sections import (
    Bin,
    GallerySample,
    SectionNumbers,
    SectionRequest,
    Shares,
    clipped,
)
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import Shard, find_files

# Counting: which module makes the section of which kind of table

COUNTS: dict[str, Callable[[ReportTable, SectionRequest], SectionNumbers]] = {
    "quality": scores.count,
    DECISIONS: scores.count,
    ratings.KIND: ratings.count,
    "assessment": assessments.count,
}
"""Kind of a table -> what counts it."""


def count_all(tables: Sequence[ReportTable], gallery: int) -> list[SectionNumbers]:
    """The numbers of all tables; raises RequestError for a kind or columns that aren't shown."""
    for one in tables:
        if one.kind not in COUNTS:
            raise RequestError(
                f"{one.path}: holds {one.kind}, which is not shown; {', '.join(COUNTS)} are"
            )
    request = SectionRequest(tuple(tables), gallery)
    made = []
    for one in tables:
        try:
            made.append(COUNTS[one.kind](one, request))
        except BaseException as error:
            if isinstance(error, RequestError) or is_order_to_end(error):
                raise
            reason = str(error).strip().split("\n")[0]
            raise RequestError(
                f"{one.path}: can't be read as a table of {one.kind} ({reason}); make it again"
            ) from error
    return made


# The samples of a gallery, fetched from their shards: texts and small pictures, as they read

_SIDE = 320
"""Longest side of a picture."""
_SMALL = 128
"""Pictures up to this side are kept to the pixel."""
_QUALITY = 80
_MOST_PARTS = 24


@dataclass(frozen=True)
class ContentPart:
    """A part of a sample: a text, or a picture as a data URI."""

    text: str = ""
    picture: str = ""
    problem: str = ""
    """Why a picture can't be shown."""


@dataclass(frozen=True)
class SampleContent:
    """A sample as it reads."""

    pieces: tuple[ContentPart, ...] = ()
    more: str = ""
    """What was left out."""


@dataclass(frozen=True)
class Section:
    """What the report says of one table or of one set of decisions."""

    table: ReportTable
    numbers: SectionNumbers
    contents: dict[tuple[str, str, int | None], SampleContent] = field(default_factory=dict)
    """Shard, key and place of a sample -> how it reads."""

    @property
    def groups(self) -> dict[str, list[tuple[GallerySample, SampleContent]]]:
        """The samples to show, by title, with how they read."""
        return {
            title: [(one, self._content(one)) for one in some]
            for title, some in self.numbers.groups.items()
        }

    def _content(self, one: GallerySample) -> SampleContent:
        return self.contents.get((one.shard, one.key, one.place), SampleContent())

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it was made, as name and value; a value that differs between files is left out."""
        headers = self.table.headers
        facts: list[tuple[str, str]] = [("made by", f"mmsieve {headers[0].version}")]
        for part in ("fingerprint", "notes"):
            first = getattr(headers[0], part)
            for name, value in first.items():
                if all(getattr(header, part).get(name) == value for header in headers):
                    facts.append((name.replace("_", " "), str(value)))
        return facts

    @property
    def incomplete(self) -> list[tuple[str, str]]:
        """Shards of which only a part was read, with the reason."""
        return [
            (header.shard, header.problem or f"trial run of {header.limit} samples")
            for header in self.table.headers
            if not header.complete and (header.problem or header.limit)
        ]


def make_sections(
    tables: Sequence[ReportTable],
    counted: Sequence[SectionNumbers],
    sources: Sequence[str],
    read: ReadOptions,
) -> tuple[list[Section], list[str]]:
    """A section of each table with its samples as they read, and notes on what was not found."""
    sections = [Section(table, numbers) for table, numbers in zip(tables, counted, strict=True)]
    if not sources:
        note = (
            "no shards were given, so there are no pictures: name them, or instruction files, "
            "after the tables"
        )
        return sections, [note] if any(section.numbers.groups for section in sections) else []
    wanted, notes = _find(sections, split_files(find_files(sources).files, read))
    if notes and not wanted:
        raise RequestError(f"{notes[0]}: give the same ones as to make it")
    for shard, samples in wanted.items():
        try:
            for name, content in _read(shard, set(samples), read):
                for section, one in samples[name]:
                    section.contents[one.shard, one.key, one.place] = content
        except ShardError as error:
            notes.append(f"shard {shard.name} could not be read to its end: {error}")
    return sections, notes


_Name: TypeAlias = int | str
"""A sample in its shard: by its place in the file, or by its key where that is all."""


def _find(
    sections: Sequence[Section], shards: Sequence[Shard]
) -> tuple[dict[Shard, dict[_Name, list[tuple[Section, GallerySample]]]], list[str]]:
    """Shard -> name -> the samples to read in it, for any section; and what was not found."""
    known = SourceShards(shards)
    found: dict[Shard, dict[_Name, list[tuple[Section, GallerySample]]]] = {}
    problems = []
    for section in sections:
        for one in chain(*section.numbers.groups.values()):
            source = section.table.sources.get(one.shard) or TableSource(one.shard, 0, 0, None)
            shard, problem = known.find(source)
            if shard is None or problem:
                problems.append(f"{shard.address} {problem}" if shard else problem)
                continue
            name = one.key if one.place is None else one.place
            found.setdefault(shard, {}).setdefault(name, []).append((section, one))
    return found, list(dict.fromkeys(problems))


def _read(
    shard: Shard, wanted: set[_Name], read: ReadOptions
) -> Iterator[tuple[_Name, SampleContent]]:
    """The content of a shard's samples; of a key that comes twice, the first."""
    with open_shard(shard, read) as reader:
        for place, record in enumerate(reader.records, shard.start):
            for name in wanted & {place, record.key}:
                wanted.remove(name)
                try:
                    yield name, _content(parse_record(reader.parse, record))
                except SampleError as error:
                    yield name, SampleContent((ContentPart(problem=str(error)),))
            if not wanted:
                break


def _content(sample: Sample) -> SampleContent:
    turns = (Text(f"{turn.role}: {turn.text}") for turn in sample.turns)
    parts = (*sample.parts, *turns)
    pieces = tuple(
        ContentPart(text=clipped(part.text)) if isinstance(part, Text) else _picture(part)
        for part in parts[:_MOST_PARTS]
    )
    left = len(parts) - len(pieces)
    return SampleContent(pieces, f"{left} more parts" if left else "")


def _picture(part: Image) -> ContentPart:
    try:
        pixels = decode(part.data, ImageLimits(), part.frame, orient=True, fast=False)
    except SampleError as error:
        return ContentPart(problem=f"{error.status}: {error}")
    image = PillowImage.fromarray(pixels)
    kind = "png" if max(image.size) <= _SMALL else "jpeg"
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    image.save(buffer, kind, quality=_QUALITY)  # which PNG ignores
    data = base64.b64encode(buffer.getvalue()).decode()
    return ContentPart(picture=f"data:image/{kind};base64,{data}")


# Sections and samples -> the HTML file

WIDTH, HEIGHT = 720.0, 180.0
SMALL_WIDTH, SMALL_HEIGHT = 240.0, 64.0
_LETTER = 7.0
"""About the width of a digit below the columns."""
_GAP = 0.24
"""Share of a label's place that is left empty."""


def render(
    sections: list[Section], metrics: list[tuple[str, dict[str, Any]]], notes: list[str], day: date
) -> str:
    """The whole file. Every text in it is escaped; it has no script and asks for nothing."""
    environment = Environment(
        loader=PackageLoader("mmsieve.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shapes = (bars, ticks, place, columns, middles)
    environment.filters |= {shape.__name__: shape for shape in shapes}
    environment.globals |= {
        "width": WIDTH,
        "height": HEIGHT,
        "small_width": SMALL_WIDTH,
        "small_height": SMALL_HEIGHT,
        "colours": 5,  # of pools side by side, in report.css
    }
    template = environment.get_template("report.html.j2")
    return template.render(sections=sections, metrics=metrics, notes=notes, day=day.isoformat())


# Counts -> the rectangles of charts


def bars(bins: list[Bin]) -> list[dict[str, float]]:
    """Rectangles of a histogram: x, width, and per bar y and height of kept and dropped."""
    most = max(one.kept + one.dropped for one in bins)
    step = WIDTH / len(bins)
    made = []
    for index, one in enumerate(bins):
        kept, dropped = (n * HEIGHT / most for n in (one.kept, one.dropped))
        made.append(
            {
                "x": round(index * step + 0.5, 2),
                "width": round(step - 1, 2),
                "kept_y": round(HEIGHT - kept, 2),
                "kept": round(kept, 2),
                "dropped_y": round(HEIGHT - kept - dropped, 2),
                "dropped": round(dropped, 2),
            }
        )
    return made


def columns(shares: Shares) -> Iterator[dict[str, float | int | str]]:
    """Rectangles of shares, the pools side by side: pool, place and size, and what they say."""
    step = SMALL_WIDTH / len(shares.labels)
    width = step * (1 - _GAP) / len(shares.names)
    for pool, name in enumerate(shares.names):
        for number, label in enumerate(shares.labels):
            share = shares.share(pool, number)
            height = share / (shares.most or 1) * SMALL_HEIGHT
            yield {
                "pool": pool,
                "x": round(number * step + step * _GAP / 2 + pool * width, 2),
                "y": round(SMALL_HEIGHT - height, 2),
                "width": round(width, 2),
                "height": round(height, 2),
                "says": f"{label}: {share:.1%} of {name}",
            }


def middles(shares: Shares) -> list[tuple[float, str]]:
    """Places and labels below the columns, as many as there is room for."""
    step = SMALL_WIDTH / len(shares.labels)
    every = math.ceil((max(map(len, shares.labels)) + 1) * _LETTER / step)
    labels = list(enumerate(shares.labels))[::every]
    return [(round((n + 0.5) * step, 2), label) for n, label in labels]


def ticks(bins: list[Bin]) -> list[tuple[float, str]]:
    """Places and labels below a histogram, at most about eight."""
    low, high = bins[0].low, bins[-1].high
    step = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 100, 1e4, 1e9) if (high - low) / s <= 8)
    first = -(-low // step)
    count = int((high - first * step) // step) + 1
    values = [(first + i) * step for i in range(count)]
    return [(place(bins, value), f"{value:g}") for value in values]


def place(bins: list[Bin], score: float) -> float:
    """Where a score lies below a histogram."""
    low, high = bins[0].low, bins[-1].high
    return round((score - low) / (high - low) * WIDTH, 2)
