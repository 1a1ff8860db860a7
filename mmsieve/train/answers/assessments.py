"""Captions with assessments -> examples, by the enhancer's own preparer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mmsieve.generate.rendered import Drawing, assessment_group
from mmsieve.images import ImageLimits
from mmsieve.methods.aitqe_answers import DETAILS, DIMENSIONS, Assessment
from mmsieve.methods.aitqe_inputs import AitqePreparer
from mmsieve.models.enhancer import EnhancerCheckpoint
from mmsieve.models.tokenizer import IMAGE, load_tokenizer
from mmsieve.read.image_folder import ImageFolder
from mmsieve.sample import Sample
from mmsieve.train.answers.examples import Branch, Example
from mmsieve.train.answers.recipe import EnhancerRecipe
from mmsieve.train.recipe import Scenes

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
