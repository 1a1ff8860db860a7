"""Training data of each kind of model: records or drawn samples -> inputs and targets -> batches.

A classifier learns from groups: images, and the texts over them at their levels. A rater or an
enhancer is fine-tuned (SFT) on the capability queries of an instruction sample, or captions of an
image, each with its answer. All inputs are made by the preparer that the verb itself uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field, create_model
from torch import Tensor

from mmsieve.generation.files import (
    CAPTION_HEAD,
    IMAGE_MARK,
    Group,
    LabelledText,
    TrainingRecord,
    kind_of,
)
from mmsieve.images import ImageLimits
from mmsieve.labels import CAPABILITIES, LEVELS, POSITIVE, STYLES
from mmsieve.methods.aitqe.answers import DETAILS, DIMENSIONS, Assessment
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import AitqePreparer
from mmsieve.methods.mmssr.annotator import prompt_writer
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import STYLE_QUESTION, RatingPreparer, capability_question
from mmsieve.methods.tokenizer import IMAGE, load_tokenizer
from mmsieve.methods.unifilter.inputs import Item, UniFilterPreparer
from mmsieve.read import ImageFolder, ReadOptions, Record
from mmsieve.read.image_values import image_path, image_values
from mmsieve.read.instructions import IMAGES, InstructionParser
from mmsieve.registry import find
from mmsieve.sample import Sample
from mmsieve.training.recipe import EnhancerRecipe, RaterRecipe
from mmsieve.training.records import FileRecord
from mmsieve.wording import counted

IGNORED = -100
"""A target that no loss looks at, as torch has it."""

# Groups of images and texts: what a classifier learns from

RIGHT, WRONG = 0, 1


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text as a sequence with its targets."""

    ids: npt.NDArray[np.int32]
    """An IMAGE for every embedding of an image."""
    shown: npt.NDArray[np.int32]
    """Per IMAGE id, which of the group's embeddings (image * tokens per image + token) it is."""
    facts: npt.NDArray[np.int8]
    """Per id: WRONG or RIGHT where it ends a word that states a fact, IGNORED elsewhere."""
    label: float


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """Pixels [images, size, size, 3], and the rows that look at them."""

    pixels: npt.NDArray[np.uint8]
    rows: tuple[TextRow, ...]


def prepare_group(preparer: UniFilterPreparer, group: Group) -> PreparedGroup:
    """The inputs of a group; an image that several of its texts show is kept once."""
    pixels: dict[int, npt.NDArray[np.uint8]] = {}
    rows = []
    for labelled in group.texts:
        item = preparer.prepare(group.sample(labelled))
        places = [
            list(pixels).index(image)
            for image, values in zip(labelled.images, item.images, strict=False)
            if pixels.setdefault(image, values) is not None
        ]
        rows.append(_row(preparer, labelled, item, places))
    return PreparedGroup(np.stack(list(pixels.values())), tuple(rows))


def _row(
    preparer: UniFilterPreparer, labelled: LabelledText, item: Item, places: list[int]
) -> TextRow:
    """A text's item with each IMAGE spread over its embeddings; `places`: of its images."""
    tokens = preparer.image_tokens
    repeats = np.where(item.ids == IMAGE, tokens, 1)
    ids = np.repeat(item.ids, repeats)[: item.num_tokens]
    facts = np.repeat(_facts(preparer, labelled, item.ids), repeats)[: item.num_tokens]
    shown = (np.array(places, np.int32)[:, None] * tokens + np.arange(tokens)).ravel()
    whole = int((ids == IMAGE).sum())
    return TextRow(ids, shown[:whole], facts, labelled.label)


def _facts(
    preparer: UniFilterPreparer, labelled: LabelledText, ids: npt.NDArray[np.int32]
) -> npt.NDArray[np.int8]:
    """The targets of TextRow.facts; what was truncated has none."""
    targets = np.full(len(ids), IGNORED, np.int8)
    if not labelled.right and not labelled.wrong:
        return targets
    encoded, spans = preparer.encode(labelled.text)
    token_at_end = {end: index for index, (start, end) in enumerate(spans) if end > start}
    if encoded[: len(ids)] != ids.tolist():
        raise ValueError("a training text and its scoring input differ in their ids")
    for value, words in ((RIGHT, labelled.right), (WRONG, labelled.wrong)):
        for _, end in words:
            if token_at_end.get(end, len(ids)) < len(ids):
                targets[token_at_end[end]] = value
    return targets


def collate_groups(steps: list[list[PreparedGroup]], image_tokens: int) -> dict[str, Tensor]:
    """Groups as one batch: rows padded to the longest, each image once.

    `pixels` [images, size, size, 3] uint8; `shown` [IMAGE ids] says which of their embeddings
    each stands for, in row-major order; `input_ids`, `facts` [rows, longest]; `lengths`,
    `labels` [rows].
    """
    groups = [group for step in steps for group in step]
    rows = [row for group in groups for row in group.rows]
    shown, before = [], 0
    for group in groups:
        shown += [row.shown + before for row in group.rows]
        before += len(group.pixels) * image_tokens
    return {
        "pixels": torch.from_numpy(np.concatenate([group.pixels for group in groups])),
        "shown": torch.from_numpy(np.concatenate(shown)),
        "input_ids": _padded([row.ids for row in rows], 0),
        "facts": _padded([row.facts for row in rows], IGNORED),
        "lengths": torch.tensor([len(row.ids) for row in rows]),
        "labels": torch.tensor([row.label for row in rows]),
    }


def _padded(arrays: list[npt.NDArray[Any]], fill: int) -> Tensor:
    longest = max(len(array) for array in arrays)
    padded = np.full((len(arrays), longest), fill, np.int64)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


@dataclass(frozen=True, slots=True)
class LabelledRecord(FileRecord):
    """A text over images, at a level."""

    text: str
    label: float


class _Turn(BaseModel):
    value: str


class _CaptionFields(BaseModel):
    image: str
    conversations: list[_Turn]


def _captioned(entry: Any) -> tuple[str, str]:
    """Image and caption of a record of LLaVA-Pretrain; raises ValueError."""
    found = _CaptionFields.model_validate(entry)
    if not found.conversations:
        raise ValueError("conversations: no turn in it")
    return found.image, found.conversations[-1].value.replace(IMAGE_MARK, "image").strip()


def parse_labelled(index: int, entry: Any) -> LabelledRecord:
    """The record of a file in one of the published layouts; raises ValueError.

    Stage 2: `{"image": path or [paths], "text": "... <image> ...", "label": ...}`
    (`weizhiwang/unifilter_train_data`, train_classifier.py of Victorwz/UniFilter). Stage 1: LLaVA's
    `{"image": path, "conversations": [..., {"from": "gpt", "value": caption}]}` (LLaVA-Pretrain),
    a caption of the highest level.
    """
    if isinstance(entry, dict) and "conversations" in entry:
        image, caption = _captioned(entry)
        return LabelledRecord(index, (image,), CAPTION_HEAD + caption, POSITIVE)
    found = TrainingRecord.model_validate(entry)
    if not LEVELS[0] <= found.label <= LEVELS[-1]:
        raise ValueError(f"label: {found.label:g} is not from {LEVELS[0]} to {LEVELS[-1]}")
    marks = found.text.count(IMAGE_MARK)
    if marks != len(found.images) or not marks:
        raise ValueError(f"text: {marks} <image> in it for {counted(len(found.images), 'images')}")
    return LabelledRecord(index, tuple(found.images), found.text, found.label)


@dataclass(frozen=True)
class ClassifierInputs:
    """Texts over the same images -> a group that holds each image once."""

    preparer: UniFilterPreparer
    shares_images: ClassVar[bool] = True

    parse = staticmethod(parse_labelled)

    def prepare(self, records: Sequence[LabelledRecord], images: Path) -> list[PreparedGroup]:
        """The group; raises SampleError where one of its texts can't be trained on."""
        places = {name: place for place, name in enumerate(dict.fromkeys(records[0].images))}
        texts = tuple(
            LabelledText(kind_of(r.text), r.text, r.label, tuple(places[name] for name in r.images))
            for r in records
        )
        data = tuple(map(ImageFolder(images).read, places))
        return [prepare_group(self.preparer, Group(str(records[0].index), data, texts))]

    def measure(self, record: LabelledRecord, prepared: list[PreparedGroup]) -> int:
        """Tokens of the text; raises ValueError where an image would be cut off."""
        (row,) = prepared[0].rows
        if len(row.shown) != len(record.images) * self.preparer.image_tokens:
            raise ValueError("too long: an image would be cut off")
        return len(row.ids)


# Prompts and completions: what a rater or an enhancer is fine-tuned on


@dataclass(frozen=True, slots=True)
class Branch:
    """The end of a prompt, and its completion."""

    ids: npt.NDArray[np.int32]
    completion: int
    """How many ids at the end are the completion, which the model learns."""


@dataclass(frozen=True, slots=True)
class SftExample:
    """One row of a batch: a prefix that prompts share, and branches that each go on from it.

    A branch sees the prefix and itself, so a row teaches just what separate rows would.
    """

    pixels: npt.NDArray[np.uint8]
    """[images, size, size, 3], in the order of their ids in the prefix."""
    prefix: npt.NDArray[np.int32]
    """An IMAGE for every embedding of an image."""
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)


def collate_examples(steps: Sequence[Sequence[SftExample]]) -> dict[str, Tensor]:
    """Examples as one batch, rows padded to the longest.

    `pixels` [images, size, size, 3] uint8; `input_ids`, `positions`, `segments`, `labels` [rows,
    longest]: a segment is 0 in the prefix, then one number per branch, -1 beyond the row's end;
    labels stand at the ids that they are, and are IGNORED outside completions.
    """
    examples = [example for step in steps for example in step]
    shape = (len(examples), max(map(len, examples)))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, labels = np.full(shape, -1, np.int64), np.full(shape, IGNORED, np.int64)
    for row, example in enumerate(examples):
        start = len(example.prefix)
        ids[row, :start] = example.prefix
        positions[row, :start] = np.arange(start)
        segments[row, :start] = 0
        for number, branch in enumerate(example.branches, 1):
            stop = start + len(branch.ids)
            ids[row, start:stop] = branch.ids
            positions[row, start:stop] = len(example.prefix) + np.arange(len(branch.ids))
            segments[row, start:stop] = number
            prompt = len(branch.ids) - branch.completion
            labels[row, start + prompt : stop] = branch.ids[prompt:]
            start = stop
    arrays = {"input_ids": ids, "positions": positions, "segments": segments, "labels": labels}
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if pixels := [example.pixels for example in examples if len(example.pixels)]:
        batch["pixels"] = torch.from_numpy(np.concatenate(pixels))
    return batch


@dataclass(frozen=True, slots=True)
class SftRecord(FileRecord):
    """A sample with what a teacher says of it, as its fields stand in the file."""

    fields: dict[str, Any]


def parse_fields(index: int, entry: Any) -> SftRecord:
    """The record of an entry, its fields unchecked; raises ValueError where it is no object."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    paths = (image_path(value) for value in image_values(entry, IMAGES))
    return SftRecord(index, tuple(path for path in paths if path is not None), entry)


class _SftInputs:
    shares_images: ClassVar[bool] = False

    parse = staticmethod(parse_fields)

    def measure(self, record: SftRecord, prepared: list[SftExample]) -> int:
        return max(map(len, prepared))


@dataclass(frozen=True)
class CaptionedInputs(_SftInputs):
    """Captioned images -> an example each, whose completion is the caption: what aligns."""

    preparer: AitqePreparer

    def prepare(self, records: Sequence[SftRecord], images: Path) -> list[SftExample]:
        """The example of a record; raises SampleError or ValueError."""
        (record,) = records
        name, caption = _captioned(record.fields)
        (image,) = Sample.caption(ImageFolder(images).read(name), caption).images
        pixels = self.preparer.pixels(image)
        ids, completion = self.preparer.encode_caption(caption)
        prefix = np.full(self.preparer.image_tokens, IMAGE, np.int32)
        return [SftExample(pixels[None], prefix, (Branch(np.array(ids, np.int32), completion),))]


_ASSESSMENT: dict[str, Any] = {"recaption": (str | None, None)}
for _name in DIMENSIONS:
    _ASSESSMENT |= {f"{_name}_score": (float, ...), f"{_name}_explanation": (str, ...)}
_AssessmentFields: type[BaseModel] = create_model("_AssessmentFields", **_ASSESSMENT)


class _AssessedFields(BaseModel):
    image: str
    caption: str
    assessment: dict[str, Any]
    phase: str = "raw"


@dataclass(frozen=True)
class EnhancerInputs(_SftInputs):
    """Captions of an image with their assessments -> an example, a branch for each caption."""

    preparer: AitqePreparer
    negatives: bool
    rewriting: bool

    @classmethod
    def of(cls, checkpoint: EnhancerCheckpoint, recipe: EnhancerRecipe) -> "EnhancerInputs":
        """What a recipe teaches a checkpoint."""
        preparer = AitqePreparer(
            tokenizer=load_tokenizer(checkpoint.folder, checkpoint.embedded),
            image=checkpoint.tower.image,
            image_tokens=checkpoint.image_tokens,
            fit=None,
            caption_tokens=int((checkpoint.own or {}).get("max_text_tokens", 1024)),
            plain_text=True,
            orient=False,
            fast=False,
            limits=ImageLimits(),
        )
        return cls(preparer, recipe.negatives, recipe.rewriting)

    def prepare(self, records: Sequence[SftRecord], images: Path) -> list[SftExample]:
        """The example of a record; raises SampleError or ValueError."""
        (record,) = records
        assessed = _AssessedFields.model_validate(record.fields)
        _AssessmentFields.model_validate(assessed.assessment)
        if not self.negatives and assessed.phase != "raw":
            raise ValueError("a negative, which the recipe leaves out")
        image = ImageFolder(images).read(assessed.image)
        return [self.example(image, [(assessed.caption, assessment_of(assessed.assessment))])]

    def example(self, image: bytes, captions: Sequence[tuple[str, Assessment]]) -> SftExample:
        """Captions of one image with their assessments; raises SampleError."""
        branches = []
        for caption, assessment in captions:
            item = self.preparer.prepare(Sample.caption(image, caption))
            wanted = assessment if self.rewriting else replace(assessment, recaption=None)
            completion = self.preparer.encode_answer(wanted)
            branches.append(Branch(np.array([*item.ids, *completion], np.int32), len(completion)))
        prefix = np.full(self.preparer.image_tokens, IMAGE, np.int32)
        return SftExample(item.image[None], prefix, tuple(branches))


def assessment_of(fields: Mapping[str, Any]) -> Assessment:
    """The assessment in a record's fields."""
    return Assessment(
        recaption=fields.get("recaption"),
        overall=float(fields["overall_score"]),
        scores={name: float(fields[f"{name}_score"]) for name in DETAILS},
        explanations={name: str(fields[f"{name}_explanation"]) for name in DIMENSIONS},
    )


class _RatedFields(BaseModel):
    ratings: dict[str, int] = {}
    styles: list[str] = Field([])


@dataclass(frozen=True)
class RaterInputs(_SftInputs):
    """An instruction sample with ratings and styles -> an example for each kind of answer."""

    preparer: RatingPreparer
    """One writer per kind of answer, in the order of `answers`."""
    image_tokens: int
    capabilities: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: OneVision, recipe: RaterRecipe) -> "RaterInputs":
        """What a recipe teaches a checkpoint."""
        asked = known_capabilities(recipe)
        questions = {
            "ratings": [capability_question(keyword) for keyword in asked.values()],
            "styles": [STYLE_QUESTION],
        }
        writers = tuple(prompt_writer(checkpoint, questions[kind], True) for kind in recipe.answers)
        preparer = RatingPreparer(writers, checkpoint.image, checkpoint.max_sequence, ImageLimits())
        return cls(preparer, checkpoint.image_tokens, tuple(asked), recipe.answers)

    def prepare(self, records: Sequence[SftRecord], images: Path) -> list[SftExample]:
        """The examples of a record; raises SampleError or ValueError."""
        (record,) = records
        rated = _RatedFields.model_validate(record.fields)
        for style in rated.styles:
            if style not in STYLES:
                raise ValueError(f"{style!r} is no style")
        for name in rated.ratings:
            if name not in self.capabilities:
                raise ValueError(f"{name!r} is no capability of the recipe")
        for name, value in rated.ratings.items():
            if not 0 <= value <= 5:
                raise ValueError(f"{name!r} is not rated from 0 to 5")
        parse = InstructionParser(ReadOptions(images=images))
        sample = parse(Record(str(record.fields.get("idx", "")), record.fields))
        found = self.examples(sample, rated.ratings, rated.styles)
        if not found:
            raise ValueError(f"no {' or '.join(self.answers)} in it")
        return found

    def examples(
        self, sample: Sample, ratings: Mapping[str, int], styles: Sequence[str]
    ) -> list[SftExample]:
        """One per kind of answer that is known; raises SampleError."""
        item = self.preparer.prepare(sample)
        known: dict[str, list[Any]] = {
            "ratings": [ratings.get(name) for name in self.capabilities],
            "styles": [", ".join(styles) or None],
        }
        found = []
        for kind, prompt, writer in zip(
            self.answers, item.prompts, self.preparer.writers, strict=True
        ):
            branches = []
            for end, value in zip(prompt.ends, known[kind], strict=True):
                if value is not None:
                    completion = writer.answer(str(value))
                    ids = np.array([*end, *completion], np.int32)
                    branches.append(Branch(ids, len(completion)))
            if branches:
                repeats = np.where(prompt.shared == IMAGE, self.image_tokens, 1)
                prefix = np.repeat(prompt.shared, repeats)
                found.append(SftExample(item.images, prefix, tuple(branches)))
        return found


def known_capabilities(recipe: RaterRecipe) -> dict[str, str]:
    """Name -> keyword of all capabilities that a recipe's records may rate."""
    return {**CAPABILITIES, **recipe.capabilities}


def drawn_training() -> Any:
    """What a recipe with `rendered` learns from where no file is given, and what it starts from:
    the module registered for it, with the functions `draw`, `draw_pretext` and `write_initial`.
    """
    return find("training data", "drawn")
