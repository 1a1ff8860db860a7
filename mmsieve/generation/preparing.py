"""Preparing requests: the planned items are read again, now with their images, and those encoded.

That is nearly all of a generation's work, beside waiting: it is done in this process, just ahead of
the requests, or on the nodes of a Ray cluster, whose results this process sends and keeps.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

from PIL import Image as PillowImage

from mmsieve.clients.teacher import AnswerFormat, ModelRequest
from mmsieve.engine.crew import Actor, Failure
from mmsieve.engine.ray import RayEngine
from mmsieve.errors import MmsieveError, SampleError, ShardError
from mmsieve.generation.plan import ImageSource
from mmsieve.generation.tasks import Fields, GenerationTask, Picture, Prompts, RequestItem
from mmsieve.images import ImageLimits, decode

_QUALITY = 90  # of the JPEG files that a teacher is shown
_IMAGES, _PIXELS = 200, 64_000_000
"""Of what an actor returns at a time, as it came and encoded: it is in memory on both sides."""
_REQUESTS = 32
"""At a time, that an actor is enough for: it prepares more in a second than are answered."""

Pending: TypeAlias = tuple[RequestItem, ModelRequest]
"""An item with its images' bytes, and the request about it."""


@dataclass(frozen=True)
class SourceItems:
    """Items of one source, to be read together."""

    source: ImageSource
    items: Sequence[RequestItem]

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name


@dataclass(frozen=True, kw_only=True)
class RequestBuilder:
    """Reads items of a source and builds the requests about them."""

    task: GenerationTask
    prompts: Prompts
    format: AnswerFormat
    side: int
    """Longest side, in pixels, that images are shown with."""
    max_images: int
    """Of an item."""

    def prepare(self, wanted: SourceItems, failed: dict[str, str]) -> Iterator[Pending]:
        """The items, in the order of their source; `failed` takes those that are gone."""
        missing = {item.id for item in wanted.items}
        for item in self._read(wanted, failed):
            if item.id in missing:
                missing.remove(item.id)
                yield item, self._build(item)
        failed |= dict.fromkeys(missing, "its source has changed since the plan")

    def _read(self, wanted: SourceItems, failed: dict[str, str]) -> Iterator[RequestItem]:
        try:
            for raw in wanted.source.read({item.index for item in wanted.items}):
                if raw.problem is not None:
                    raise raw.problem
                yield from self.task.items(raw, self.max_images, keep=True)
        except (ShardError, SampleError) as error:
            failed[wanted.name] = str(error)

    @cached_property
    def _schema(self) -> Fields:
        return self.task.schema()

    def _build(self, item: RequestItem) -> ModelRequest:
        """The request about an item; the images are encoded anew, small and without EXIF."""
        values = self.task.values(item)
        prompt = self.prompts.compose(values, self._schema, self.format)
        images = tuple(_shown(picture, self.side) for picture in item.pictures)
        return ModelRequest(prompt, images, self._schema, self.format)


def _shown(picture: Picture, side: int) -> bytes:
    """A JPEG file; no EXIF orientation is applied, as models that train on it don't see it so."""
    image = PillowImage.fromarray(decode(picture.data, ImageLimits()))
    image.thumbnail((side, side), PillowImage.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


@dataclass(frozen=True)
class WantedRequests:
    """What is to be prepared."""

    builder: RequestBuilder
    sources: Sequence[SourceItems]
    requests: int
    """That are under way at a time."""
    failed: dict[str, str]
    """Takes what can't be prepared, and why."""
    is_enough: Callable[[], bool]
    """Whether nobody takes any more."""


Prepare: TypeAlias = Callable[[WantedRequests], Iterator[Pending]]
"""A way of preparing."""


def prepare_here(wanted: WantedRequests) -> Iterator[Pending]:
    """Prepare in this process, one item after the other, as they are asked for."""
    for each in wanted.sources:
        yield from wanted.builder.prepare(each, wanted.failed)


class _PreparingActor(Actor):
    """Prepares requests on a node."""

    def __init__(self, builder: RequestBuilder) -> None:
        self._builder = builder

    def run(self, wanted: SourceItems) -> tuple[list[Pending], dict[str, str]]:
        """The requests about some items, and what failed."""
        failed: dict[str, str] = {}
        return list(self._builder.prepare(wanted, failed)), failed


def prepare_on_ray(join: Callable[[], RayEngine], wanted: WantedRequests) -> Iterator[Pending]:
    """Prepare on the nodes of a cluster, a CPU each; parts of the sources come as they end.

    There are only as many actors as feed the requests, and none begins a part while what came of
    those before is waited for here: memory is bounded. What ends the preparing is noted, not
    raised, as requests are under way that have been paid for.
    """
    parts = [part for each in wanted.sources for part in _split(each)]
    if not parts:
        return
    make, most = partial(_PreparingActor, wanted.builder), 1 + wanted.requests // _REQUESTS
    try:
        for part, found in join().run_each(make, parts, most, wanted.is_enough):
            if not isinstance(found, Failure):
                pending, problems = found
                wanted.failed.update(problems)
                yield from pending
                del found, pending  # before the next part is here
            elif found.details is None:
                wanted.failed[part.name] = found.problem
            else:
                raise RuntimeError(f"on a node: {found.details}")  # a fault of ours
    except MmsieveError as error:
        wanted.failed["the Ray cluster"] = str(error)


def _split(wanted: SourceItems) -> Iterator[SourceItems]:
    """Items of a source in their order, so many images at a time."""
    part: list[RequestItem] = []
    images = pixels = 0
    for item in wanted.items:
        size = sum(picture.width * picture.height for picture in item.pictures)
        if part and (images + len(item.pictures) > _IMAGES or pixels + size > _PIXELS):
            yield _part(wanted.source, part)
            part, images, pixels = [], 0, 0
        part.append(item)
        images, pixels = images + len(item.pictures), pixels + size
    if part:
        yield _part(wanted.source, part)


def _part(source: ImageSource, items: Sequence[RequestItem]) -> SourceItems:
    return SourceItems(source.only({item.index for item in items}), items)
