"""Instruction samples with ratings and styles -> examples, by the rater's own preparer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from mmsieve.capabilities import CAPABILITIES, STYLES
from mmsieve.generate.rendered import Drawing
from mmsieve.images import ImageLimits
from mmsieve.methods.mmssr import make_asker
from mmsieve.methods.mmssr_inputs import (
    STYLE_QUESTION,
    RatingPreparer,
    capability_question,
)
from mmsieve.models.onevision import OneVision
from mmsieve.models.tokenizer import IMAGE
from mmsieve.read.instructions import Parser
from mmsieve.read.records import Record
from mmsieve.rendered.instructions import instruction
from mmsieve.sample import Sample
from mmsieve.train.answers.examples import Branch, Example
from mmsieve.train.answers.recipe import RaterRecipe
from mmsieve.train.recipe import Scenes


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
        sample = Parser(images)(Record(str(entry.get("idx", "")), entry))
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
