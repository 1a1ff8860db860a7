"""The rendered teacher: draws scenes and writes over them, truth known, into training files.

Everything follows from a seed and an index, so any group can be made again alone, in any order,
in any process. As a teacher of `generate` (`check`, `count_drawn`, `draw`) it is found by its name
in `mmsieve.registry`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from mmsieve.errors import RequestError
from mmsieve.exporting.samples import member_bytes, sample_members
from mmsieve.generation.files import (
    CAPTION_HEAD,
    DOCUMENT_JOINT,
    IMAGE_MARK,
    SHARDS,
    Group,
    LabelledText,
    Span,
    TrainingFiles,
    image_names,
    text_fields,
)
from mmsieve.generation.options import GenerateOptions
from mmsieve.generation.tasks import GenerationTask
from mmsieve.labels import LEVELS
from mmsieve.outputs import write_atomically
from mmsieve.progress import Advance, show_progress
from mmsieve.sample import Sample
from mmsieve.synthetic.assessments import AssessedCaption, assessed_pair
from mmsieve.synthetic.draw import draw_scene
from mmsieve.synthetic.instructions import FAMILIES, InstructionSample, instruction
from mmsieve.synthetic.scenes import WORLDS, Scene, sample_scene
from mmsieve.synthetic.texts import Caption, Document, caption_set, document_set, sample_scenes

_CAPTIONS, _DOCUMENTS, _ASSESSMENTS = 0, 1, 2
"""In the seeds of groups, so that no two kinds are drawn alike."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn, and how it is kept."""

    family: str = "core"
    """Kind of scenes: a name of WORLDS."""
    encoding: str = "PNG"
    """A lossless format of Pillow's."""
    blank: bool = False
    """Keep the texts and show nothing: a control of what they give away by themselves."""
    aspect: float = 1.0
    """Width over height; objects keep their shape, with more room between them."""

    def draw(self, scene: Scene) -> bytes:
        """The picture of a scene, encoded."""
        image = draw_scene(scene, aspect=self.aspect)
        if self.blank:
            image = PillowImage.new("RGB", image.size)
        buffer = BytesIO()
        image.save(buffer, self.encoding)
        return buffer.getvalue()


def caption_group(seed: int, index: int, drawing: Drawing = Drawing()) -> Group:
    """A scene and its four captions, in the order of the levels."""
    rng = np.random.default_rng((seed, _CAPTIONS, index))
    scene = sample_scene(drawing.family, int(rng.integers(2**62)))
    texts = tuple(_caption(caption) for caption in caption_set(scene, rng))
    return Group(f"c{index:08d}", (drawing.draw(scene),), texts)


def caption_scene(seed: int, index: int, family: str = "core") -> Scene:
    """The scene under the captions of `caption_group`: what is true there."""
    rng = np.random.default_rng((seed, _CAPTIONS, index))
    return sample_scene(family, int(rng.integers(2**62)))


def document_group(seed: int, index: int, drawing: Drawing = Drawing()) -> Group:
    """Two or three scenes and the four documents around them, in the order of the levels."""
    rng = np.random.default_rng((seed, _DOCUMENTS, index))
    scenes = sample_scenes(drawing.family, rng)
    images = tuple(drawing.draw(scene) for scene in scenes)
    texts = tuple(_document(document) for document in document_set(scenes, rng))
    return Group(f"d{index:08d}", images, texts)


@dataclass(frozen=True, slots=True)
class AssessedGroup:
    """A picture, what is in it, and its good and its poor caption as a judge marks them."""

    key: str
    image: bytes
    scene: Scene
    pairs: tuple[AssessedCaption, AssessedCaption]
    """The raw caption, then its partner of the opposite quality."""


def assessment_group(seed: int, index: int, drawing: Drawing = Drawing()) -> AssessedGroup:
    """A scene, a raw caption and its partner, both assessed."""
    rng = np.random.default_rng((seed, _ASSESSMENTS, index))
    scene = sample_scene(drawing.family, int(rng.integers(2**62)))
    return AssessedGroup(f"a{index:08d}", drawing.draw(scene), scene, assessed_pair(scene, rng))


def _caption(caption: Caption) -> LabelledText:
    marked = caption.text
    right, wrong = (_shift(spans, len(CAPTION_HEAD)) for spans in (marked.right, marked.wrong))
    return LabelledText("caption", CAPTION_HEAD + marked.text, caption.level, (0,), right, wrong)


def _document(document: Document) -> LabelledText:
    text, images = "", []
    right: list[Span] = []
    wrong: list[Span] = []
    for part in document.parts:
        text += DOCUMENT_JOINT if text else ""
        if isinstance(part, int):
            images.append(part)
            text += IMAGE_MARK
        else:
            right += _shift(part.right, len(text))
            wrong += _shift(part.wrong, len(text))
            text += part.text
    return LabelledText("document", text, document.level, tuple(images), tuple(right), tuple(wrong))


def _shift(spans: tuple[Span, ...], offset: int) -> tuple[Span, ...]:
    return tuple((start + offset, end + offset) for start, end in spans)


@dataclass(frozen=True, slots=True)
class DrawnRecord:
    """A record of a training file, and the same as a sample of a source, for shards."""

    fields: dict[str, Any]
    """Without its id."""
    sample: Sample
    """Without its key."""
    item: dict[str, Any] | None = None
    """The same as an item of a pool of instructions, with nothing known about it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images and all the records over them."""

    key: str
    images: tuple[bytes, ...]
    records: tuple[DrawnRecord, ...]


def _texts(
    make: Callable[[int, int, Drawing], Group], seed: int, index: int, drawing: Drawing
) -> Drawn:
    group = make(seed, index, drawing)
    fields = text_fields(image_names(group.key, ["png"] * len(group.images)), group.texts)
    records = tuple(
        DrawnRecord(own, replace(group.sample(text), metadata={"level": int(text.label)}))
        for own, text in zip(fields, group.texts, strict=True)
    )
    return Drawn(group.key, group.images, records)


def _assessments(seed: int, index: int, drawing: Drawing) -> Drawn:
    group = assessment_group(seed, index, drawing)
    (image,) = image_names(group.key, ["png"])
    records = []
    for one in group.pairs:
        judged = {"caption": one.text, "assessment": one.assessment, "phase": one.phase}
        known = {"level": one.level, "phase": one.phase}
        sample = replace(Sample.caption(group.image, one.text), metadata=known)
        records.append(DrawnRecord({"image": image, **judged}, sample))
    return Drawn(group.key, (group.image,), tuple(records))


def _ratings(seed: int, index: int, drawing: Drawing) -> Drawn:
    made = instruction(seed, index, drawing.family)
    images = tuple(drawing.draw(scene) for scene in made.scenes)
    item = made.item(image_names(made.key, ["png"] * len(images)), index)
    reasons = _reasons(made, drawing.family)
    rated = {"ratings": dict(made.ratings), "reasons": reasons, "styles": list(made.styles)}
    shown = iter(images)
    sample = made.sample(lambda _: next(shown), index)
    return Drawn(made.key, images, (DrawnRecord(item | rated, sample, item),))


def _reasons(made: InstructionSample, family: str) -> dict[str, str]:
    """Capability -> why it is rated so: by the question that is best for it."""
    if made.wrong:
        return dict.fromkeys(made.ratings, "The picture contradicts an answer.")
    profiles = {turn.template: FAMILIES[family][turn.template].ratings for turn in made.turns}
    best = {name: max(profiles, key=lambda task: profiles[task][name]) for name in made.ratings}
    return {
        name: f"Its best question for this is of the kind `{task}`." for name, task in best.items()
    }


_DRAW: dict[str, Callable[[int, int, Drawing], Drawn]] = {
    "captions": partial(_texts, caption_group),
    "documents": partial(_texts, document_group),
    "assessments": _assessments,
    "ratings": _ratings,
}
"""Name of a task -> draws what is at an index of a seed."""


def check(task: GenerationTask, options: GenerateOptions) -> None:
    """Raise RequestError for what can't be drawn for a task."""
    family = options.family
    if options.texts_per_image != len(LEVELS) and task.each != len(LEVELS):
        raise RequestError(f"--texts-per-image: is for texts at levels, not for {task.name}")
    if task.name == "documents" and not WORLDS[family].has_things:
        raise RequestError(f"--family {family}: documents are written over core or many")
    if task.name == "ratings" and family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise RequestError(f"--family {family}: questions are asked over {known}")
    if task.name == "ratings" and options.shards:
        raise RequestError("--shards: is for texts; the samples of ratings are in qas.json")


def count_drawn(task: GenerationTask, options: GenerateOptions) -> int:
    """How many times something is drawn for so many records."""
    return -(-options.count // (1 if options.texts_per_image == 1 else task.each))


def draw(task: GenerationTask, out: Path, options: GenerateOptions) -> tuple[dict[str, int], int]:
    """Draw and write into a folder; returns the records of each file, and how many tars."""
    files, tars = TrainingFiles(out), 0
    with show_progress(task.name, options.count, options.quiet, task.noun) as advance:
        samples = _samples(_drawn(task, options), files, advance)
        if options.shards:
            tars = write_shards(samples, out / SHARDS, options.shard_size)
        else:
            deque(samples, maxlen=0)
    return files.finish(), tars


def _drawn(task: GenerationTask, options: GenerateOptions) -> Iterator[tuple[Drawn, bool]]:
    """Images with the records that are wanted, and whether they are for validation."""
    times = count_drawn(task, options)
    rng = np.random.default_rng((options.seed, 7))
    val = set(rng.permutation(times)[: round(times * options.val_fraction)].tolist())
    levels = rng.integers(len(LEVELS), size=times)
    drawing = Drawing(family=options.family, blank=options.blank_images)
    for index in range(times):
        drawn = _DRAW[task.name](options.seed, index, drawing)
        records = drawn.records[: options.count - index * task.each]
        if options.texts_per_image == 1:
            records = drawn.records[levels[index] :][:1]
        yield replace(drawn, records=records), index in val


def _samples(
    drawn: Iterable[tuple[Drawn, bool]], files: TrainingFiles, advance: Advance
) -> Iterator[Sample]:
    """Write what is drawn to the training files, and give each record as a sample."""
    for group, is_val in drawn:
        files.add_images(group.key, group.images)
        files.add(group.key, (record.fields for record in group.records), is_val)
        files.add_to_pool(record.item for record in group.records if record.item is not None)
        for index, record in enumerate(group.records):
            key = f"{group.key}-{index}"
            yield replace(record.sample, key=key, metadata={"uid": key} | record.sample.metadata)
        advance(len(group.records), len(group.records))


def write_shards(samples: Iterable[Sample], folder: Path, size: int) -> int:
    """Write 00000000.tar, 00000001.tar, ... of `size` samples each; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    tars, waiting = 0, iter(samples)
    while chunk := list(islice(waiting, size)):
        members = (member for sample in chunk for member in sample_members(sample))
        empty = bytes(1024)  # two empty blocks end a tar
        data = b"".join([*(member_bytes(*member) for member in members), empty])
        write_atomically(folder / f"{tars:08d}.tar", partial(Path.write_bytes, data=data))
        tars += 1
    return tars
