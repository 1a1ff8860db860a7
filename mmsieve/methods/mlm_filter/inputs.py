"""MLM-Filter's questions about a caption pair, and the scores that are read from the answers.

The words are those of the published script, to the letter, as its models were taught them:
github.com/Victorwz/MLM_Filter, mlm_filter_scoring_datacomp_batch_inference_v2.py (MIT licence,
Copyright (c) 2025 Weizhi Wang). That for the first models, without _v2, says "multiples of 10" for
"multiples of 5 or 10", and is otherwise the same.
"""

import re
from dataclasses import dataclass
from typing import Any

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import ImageLimits
from mmsieve.methods.base import caption_image, caption_text
from mmsieve.methods.stock import file_part
from mmsieve.sample import Sample

_QUESTION = (
    "Text Caption: {caption}\n\n"
    "{criteria} A higher score indicates higher level of {aspect}. Ensure that your scoring is "
    "nuanced and uses the entire range from 0 to 100, reflecting the subtle differences. The score "
    "should be given as an integer, with each number between 0 and 100 considered as a potential "
    "score, avoiding the tendency to round to multiples of 5 or 10. Please first output a single "
    "line containing the value indicating the scores. In the subsequent line, please provide a "
    "comprehensive explanation of your evaluation, avoiding any potential bias."
)

METRICS = {
    "image_text_matching": (
        "Please evaluate if the provided text caption accurately represents the main features and "
        "objects of the image. The caption doesn't need to detail every aspect of the image, but "
        "it should capture its primary theme. Rate the overall quality of the text caption's match "
        "to the image on a scale of 1-100, considering the criteria mentioned."
    ),
    "object_detail_fulfillment": (
        "Please evaluate the text caption to determine if it provides detailed descriptions of "
        "objects that align with the image. Specifically, assess if the caption sufficiently "
        "describes the color, size, position, shape, material, etc., of the objects. Afterward, "
        "rate the caption's overall accuracy in capturing object details from the image on a scale "
        "of 1-100, based on the criteria provided."
    ),
    "caption_text_quality": (
        "Please evaluate the text caption based on the following criteria: Grammatical "
        "Correctness, Diversity of Vocabulary (e.g., the range and uniqueness of words used), "
        "Fluency (e.g., smoothness and natural flow of sentences), Readability, Length, and "
        "Structure. Assign an overall quality score on a scale of 1-100."
    ),
    "semantic_understanding": (
        "Evaluate the given text caption in relation to its corresponding image. Your goal is to "
        "determine if the text caption provides additional semantic information that isn't readily "
        "apparent just from the image itself.\n\n"
        "For example:\n\n"
        '1. If the image mentions "a man" but the caption elaborates he is a "homeless man" or '
        'a "businessman," then the caption is enriching the semantic context.\n'
        "2. If the caption introduces concepts like the mathematical tangent function, which "
        "require in-depth knowledge to deduce, it is imparting external semantics.\n"
        "3. Captions revealing specific location addresses, festival details, or other nuanced "
        "data not easy to infer from the image also provide external semantic information.\n"
        "4. Directly identifying specific entities in the image such as buildings, people, bird "
        "species, animal breeds, car models, engines, etc., in the caption introduces additional "
        "insights.\n"
        "5. Should the image act as a contextual backdrop and the caption describes elements not "
        "explicitly showcased in the image, it has semantic depth.\n"
        "6. Lastly, if the caption depicts relationships between the subjects in the image, which "
        "need commonsense knowledge to understand, it should be considered semantically rich.\n\n"
        "Please assess and determine the extent of semantic enrichment the caption provides over "
        "the image. Rate the text caption's semantic depth on a scale from 1 to 100."
    ),
}
"""Metric -> what its question asks for, in the published order."""

_SCORE = re.compile(r"\s*(100|[1-9]?[0-9])[ \t\r]*(?:\n|$)")
"""The first line of an answer that is a score and nothing else."""


def question(metric: str, caption: str) -> str:
    """What follows the image in a request for a metric's score."""
    aspect = metric.replace("_", " ")
    return _QUESTION.format(caption=caption, criteria=METRICS[metric], aspect=aspect)


def parse_metrics(names: str | None) -> tuple[str, ...]:
    """The metrics of a comma-separated list, in the published order, all for None.

    Raises RequestError.
    """
    if names is None:
        return tuple(METRICS)
    asked = {name.strip() for name in names.split(",")}
    if unknown := asked - METRICS.keys():
        raise RequestError(
            f"--metrics {names}: {min(unknown)!r} is none of {', '.join(METRICS)}, separated by "
            "commas"
        )
    return tuple(name for name in METRICS if name in asked)


def read_score(text: str, is_cut: bool) -> int | None:
    """The score (0-100) of an answer, which stands alone in its first line; None for any other.

    `is_cut` where the server ended it: a number that it ends with may lack digits.
    """
    found = _SCORE.match(text)
    if found is None or (is_cut and text[-1].isdigit() and "\n" not in text.lstrip()):
        return None
    return int(found[1])


@dataclass(frozen=True, slots=True)
class CaptionItem:
    """What is sent for one caption pair."""

    caption: str
    image: dict[str, Any]
    """Part of a chat."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory, more or less."""
        return len(self.image["image_url"]["url"])


@dataclass(frozen=True)
class CaptionPreparer:
    """The CPU half: checks the image, and encodes it for sending."""

    orient: bool
    limits: ImageLimits

    def prepare(self, sample: Sample) -> CaptionItem:
        """What is sent about a caption pair; raises SampleError where it can't be scored."""
        if sample.kind != "caption":
            raise SampleError(Status.TEXT_MISSING, f"{sample.kind}: only caption pairs are scored")
        image = caption_image(sample)
        return CaptionItem(caption_text(sample), file_part(image.data, self.limits, self.orient))
