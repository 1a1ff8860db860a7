"""Supervised fine-tuning: prompts and completions from ratings and assessments, checked and split.

An example is a prefix and branches that each go on from it and end with an answer: the capability
queries of one instruction sample, or several captions of one image. In a batch they lie in one
row, a branch sees the prefix and itself (`mmsieve.models.prefix_tree`), so a row trains just what
separate rows would and reads the shared part once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmsieve.errors import RequestError, SampleError
from mmsieve.images import ImageLimits
from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.methods.aitqe.answers import DETAILS, DIMENSIONS, Assessment
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import AitqePreparer
from mmsieve.methods.mmssr.annotator import make_asker
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import STYLE_QUESTION, RatingPreparer, capability_question
from mmsieve.methods.tokenizer import IMAGE, load_tokenizer
from mmsieve.progress import Advance
from mmsieve.read.instructions import InstructionParser
from mmsieve.read.records import ImageFolder, Record
from mmsieve.sample import Sample
from mmsieve.synthetic.instructions import instruction
from mmsieve.synthetic.teacher import Drawing, assessment_group
from mmsieve.synthetic.training import choose_family
from mmsieve.training.recipe import EnhancerRecipe, RaterRecipe, Scenes
from mmsieve.training.records import LeftOut, read_list

# Examples: what a generating model reads and how it should answer, as token ids

NOT_LEARNT = -100
"""A target that no loss looks at, as torch has it."""
_PADDING = -1
_SHARED = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """A way on from the prefix; its last `answer` ids are what the model should say."""

    ids: npt.NDArray[np.int32]
    answer: int


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch."""

    pixels: npt.NDArray[np.uint8]
    """[images, size, size, 3], in the order of their ids in the prefix."""
    prefix: npt.NDArray[np.int32]
    """An IMAGE for every embedding of an image."""
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)


def collate_examples(steps: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
    """Examples as one batch, rows padded to the longest.

    `pixels` [images, size, size, 3] uint8; `input_ids`, `positions`, `segments`, `labels` [rows,
    longest]: a segment is 0 in the prefix, then one number per branch, -1 beyond the row's end;
    labels stand at the ids that they are, and are IGNORED where nothing is to be said.
    """
    examples = [example for step in steps for example in step]
    shape = (len(examples), max(map(len, examples)))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, labels = np.full(shape, _PADDING, np.int64), np.full(shape, NOT_LEARNT, np.int64)
    for row, example in enumerate(examples):
        start = len(example.prefix)
        ids[row, :start] = example.prefix
        positions[row, :start] = np.arange(start)
        segments[row, :start] = _SHARED
        for number, branch in enumerate(example.branches, 1):
            stop = start + len(branch.ids)
            ids[row, start:stop] = branch.ids
            positions[row, start:stop] = len(example.prefix) + np.arange(len(branch.ids))
            segments[row, start:stop] = number
            labels[row, stop - branch.answer : stop] = branch.ids[len(branch.ids) - branch.answer :]
            start = stop
    pixels = [example.pixels for example in examples if len(example.pixels)]
    arrays: dict[str, npt.NDArray[Any]] = {
        "input_ids": ids,
        "positions": positions,
        "segments": segments,
        "labels": labels,
    }
    if pixels:
        arrays["pixels"] = np.concatenate(pixels)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


# Captions with assessments -> examples, by the enhancer's own preparer

_FIELDS: dict[str, Any] = {"recaption": (str | None, None)}
for _name in DIMENSIONS:
    _FIELDS |= {f"{_name}_score": (float, ...), f"{_name}_explanation": (str, ...)}
_Fields: type[BaseModel] = create_model("_Fields", **_FIELDS)


class Assessed(BaseModel):
    """A record: a caption pair and what a teacher says of it."""

    model_config = ConfigDict(extra="ignore")

    image: str
    caption: str
    assessment: dict[str, Any]
    phase: str = "raw"


@dataclass(frozen=True)
class AssessmentExamples:
    """Makes examples; picklable, so that workers can."""

    preparer: AitqePreparer
    negatives: bool
    rewriting: bool

    @classmethod
    def of(cls, checkpoint: EnhancerCheckpoint, recipe: EnhancerRecipe) -> "AssessmentExamples":
        """What a recipe teaches a checkpoint."""
        preparer = AitqePreparer(
            tokenizer=load_tokenizer(checkpoint.folder),
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

    def draw(self, seed: int, index: int, family: str, scenes: Scenes) -> list[Example]:
        """That of a picture's captions; the same seed and index give the same ones."""
        drawing = Drawing(family=family, encoding="BMP", blank=scenes.blank_images)
        group = assessment_group(seed, index, drawing)
        told = [
            (assessed.text, assessment_of(assessed.assessment))
            for assessed in group.pairs
            if self.negatives or assessed.phase == "raw"
        ]
        return [self.example(group.image, told)]

    def read(self, entry: dict[str, Any], images: Path) -> list[Example]:
        """That of a record of a file; raises SampleError or ValueError."""
        try:
            record = Assessed.model_validate(entry)
            _Fields.model_validate(record.assessment)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        if not self.negatives and record.phase != "raw":
            raise ValueError("a negative, which the recipe leaves out")
        data = ImageFolder(images).read(record.image)
        return [self.example(data, [(record.caption, assessment_of(record.assessment))])]

    def example(self, image: bytes, told: Sequence[tuple[str, Assessment]]) -> Example:
        """Captions of one image with their assessments; raises SampleError."""
        branches = []
        for caption, assessment in told:
            item = self.preparer.prepare(Sample.caption(image, caption))
            known = assessment if self.rewriting else replace(assessment, recaption=None)
            answer = self.preparer.encode_answer(known)
            branches.append(Branch(np.array([*item.ids, *answer], np.int32), len(answer)))
        prefix = np.full(self.preparer.image_tokens, IMAGE, np.int32)
        return Example(item.image[None], prefix, tuple(branches))


def assessment_of(fields: Mapping[str, Any]) -> Assessment:
    """The assessment in a record's fields."""
    return Assessment(
        recaption=fields.get("recaption"),
        overall=float(fields["overall_score"]),
        scores={name: float(fields[f"{name}_score"]) for name in DETAILS},
        explanations={name: str(fields[f"{name}_explanation"]) for name in DIMENSIONS},
    )


# Instruction samples with ratings and styles -> examples, by the rater's own preparer


class Rated(BaseModel):
    """What a record of an instruction sample says beside the sample."""

    ratings: dict[str, int] = {}
    styles: list[str] = Field([])


@dataclass(frozen=True)
class RatingExamples:
    """Makes examples; picklable, so that workers can."""

    preparer: RatingPreparer
    """One asker per kind of answer, in the order of `answers`."""
    image_tokens: int
    capabilities: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: OneVision, recipe: RaterRecipe) -> "RatingExamples":
        """What a recipe teaches a checkpoint."""
        asked = known_capabilities(recipe)
        questions = {
            "ratings": [capability_question(keyword) for keyword in asked.values()],
            "styles": [STYLE_QUESTION],
        }
        askers = tuple(make_asker(checkpoint, questions[kind], True) for kind in recipe.answers)
        preparer = RatingPreparer(askers, checkpoint.image, checkpoint.max_sequence, ImageLimits())
        return cls(preparer, checkpoint.image_tokens, tuple(asked), recipe.answers)

    def draw(self, seed: int, index: int, family: str, scenes: Scenes) -> list[Example]:
        """Those of a rendered sample; the same seed and index give the same ones."""
        drawn = instruction(seed, index, family)
        drawing = Drawing(family=family, encoding="BMP", blank=scenes.blank_images)
        return self.examples(drawn.sample(drawing.draw), drawn.ratings, drawn.styles)

    def read(self, entry: dict[str, Any], images: Path) -> list[Example]:
        """Those of a record of a file; raises SampleError or ValueError."""
        try:
            rated = Rated.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        wrong = [style for style in rated.styles if style not in STYLES]
        unknown = [name for name in rated.ratings if name not in self.capabilities]
        outside = [name for name, value in rated.ratings.items() if not 0 <= value <= 5]
        for names, problem in (
            (wrong, "is no style"),
            (unknown, "is no capability of the recipe"),
            (outside, "is not rated from 0 to 5"),
        ):
            if names:
                raise ValueError(f"{names[0]!r} {problem}")
        sample = InstructionParser(images)(Record(str(entry.get("idx", "")), entry))
        found = self.examples(sample, rated.ratings, rated.styles)
        if not found:
            raise ValueError(f"no {' or '.join(self.answers)} in it")
        return found

    def examples(
        self, sample: Sample, ratings: Mapping[str, int], styles: Sequence[str]
    ) -> list[Example]:
        """One per kind of answer that is known; raises SampleError."""
        item = self.preparer.prepare(sample)
        told: dict[str, list[Any]] = {
            "ratings": [ratings.get(name) for name in self.capabilities],
            "styles": [", ".join(styles) or None],
        }
        found = []
        for kind, prompt, asker in zip(
            self.answers, item.prompts, self.preparer.askers, strict=True
        ):
            branches = []
            for end, known in zip(prompt.ends, told[kind], strict=True):
                if known is not None:
                    answer = asker.answer(str(known))
                    branches.append(Branch(np.array([*end, *answer], np.int32), len(answer)))
            if branches:
                repeats = np.where(prompt.shared == IMAGE, self.image_tokens, 1)
                found.append(
                    Example(item.images, np.repeat(prompt.shared, repeats), tuple(branches))
                )
        return found


def known_capabilities(recipe: RaterRecipe) -> dict[str, str]:
    """Name -> keyword of all capabilities that a recipe's records may rate."""
    return {**CAPABILITIES, **recipe.capabilities}


# Data sets of examples: drawn while they are used, or the records of a file


class Examples(Protocol):
    """Makes examples of one kind of answer."""

    def draw(self, seed: int, index: int, family: str, scenes: Scenes) -> list[Example]:
        """Those of a rendered scene."""
        ...

    def read(self, entry: dict[str, Any], images: Path) -> list[Example]:
        """Those of a record of a file; raises SampleError or ValueError."""
        ...


class RenderedExamples(Dataset[list[Example]]):
    """A step's worth of drawn examples per index, all of one family; the same ones every time."""

    def __init__(self, examples: Examples, wanted: Scenes, batch: int, seed: int) -> None:
        self._examples, self._wanted = examples, wanted
        self._batch, self._seed = batch, seed

    def __len__(self) -> int:
        return self._wanted.groups // self._batch

    def __getitem__(self, step: int) -> list[Example]:
        """The examples of a step."""
        family = choose_family(self._wanted.families, (self._seed, 3, step))
        first = step * self._batch
        return [
            example
            for index in range(first, first + self._batch)
            for example in self._examples.draw(self._seed, index, family, self._wanted)
        ]


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a file as it stands there."""

    index: int
    """Its place in the file, from 0."""
    images: tuple[str, ...]
    """Paths; none for a sample without an image."""
    fields: dict[str, Any]


class EntryExamples(Dataset[list[Example]]):
    """The examples of one record per index."""

    def __init__(self, examples: Examples, entries: list[Entry], images: Path) -> None:
        self._examples, self.entries, self._images = examples, entries, images

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> list[Example]:
        """The record's examples; raises SampleError or ValueError where there are none."""
        return self._examples.read(self.entries[index].fields, self._images)


def read_entries(file: Path) -> list[Entry | LeftOut]:
    """The records of a JSON list, in order; raises RequestError where it is none."""
    return [_entry(index, fields) for index, fields in enumerate(read_list(file))]


def _entry(index: int, fields: Any) -> Entry | LeftOut:
    if not isinstance(fields, dict):
        return LeftOut(index, "not an object")
    image = fields.get("image")
    paths = image if isinstance(image, list) else [image]
    return Entry(index, tuple(path for path in paths if isinstance(path, str)), fields)


@dataclass(frozen=True)
class Checked:
    """What can be learnt from of a file, by index, and what can't."""

    lengths: dict[int, int]
    """Record -> tokens of its longest example."""
    left_out: list[LeftOut]


def check_entries(
    file: Path, examples: Examples, images: Path, workers: int, advance: Advance
) -> Checked:
    """Make every record's examples once; raises RequestError where no record can be used."""
    found = read_entries(file)
    left_out = [one for one in found if isinstance(one, LeftOut)]
    entries = [one for one in found if isinstance(one, Entry)]
    made = _Checks(EntryExamples(examples, entries, images))
    lengths: dict[int, int] = {}
    loader = DataLoader(made, batch_size=None, num_workers=workers)
    for entry, said in zip(entries, loader, strict=True):
        advance(1, 1)
        if isinstance(said, str):
            left_out.append(LeftOut(entry.index, said))
        else:
            lengths[entry.index] = int(said)
    left_out.sort(key=lambda one: one.index)
    if not lengths:
        first = left_out[0]
        raise RequestError(
            f"--data {file}: no record can be used; record {first.index}: {first.reason} "
            f"(images are looked for below {images}: --images)"
        )
    return Checked(lengths, left_out)


class _Checks(Dataset[int | str]):
    def __init__(self, made: EntryExamples) -> None:
        self._made = made

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> int | str:
        """Tokens of a record's longest example, or why it can't be trained on."""
        try:
            return max(map(len, self._made[index]))
        except SampleError as error:
            return f"{error.status}: {error}"
        except ValueError as error:
            return str(error)
