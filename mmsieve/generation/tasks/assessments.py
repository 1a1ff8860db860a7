"""Assessments: captions judged on six scales, a good one and a poor one of every image.

AITQE's contrastive recipe (arXiv 2410.16166) in two phases: a teacher scores the raw pair and
rewrites it where it is poor; then the partner of the opposite quality is scored: a deliberately
bad caption for a good pair, and for a poor pair its rewrite. One request asks for both, in the
order of writing, as the image is most of what a request costs.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field

from mmsieve.errors import SampleError, Status
from mmsieve.generation.options import AssessmentsOptions
from mmsieve.generation.tasks import (
    Fields,
    GenerationTask,
    Prompts,
    RawSample,
    RequestItem,
    StrictModel,
    TeacherAnswerError,
    as_json,
    check_scale,
    item_id,
    not_empty,
    read_prompt_files,
    usable_pictures,
)
from mmsieve.methods.aitqe.answers import DIMENSIONS, HIGHEST, LOWEST
from mmsieve.sample import Text

_TASK, _SCALES = "assessments/task.md", "assessments/scales.md"

Phase: TypeAlias = Literal["raw", "partner"]
_on_scale = partial(check_scale, lowest=LOWEST, highest=HIGHEST)
_Score = Annotated[int, Field(strict=True), AfterValidator(_on_scale)]
_Reason = Annotated[str, AfterValidator(not_empty)]


class Judgement(StrictModel):
    """A caption on the six scales, in the order of writing: reasons first, the whole last."""

    text_quality_explanation: _Reason
    text_quality_score: _Score
    image_text_matching_explanation: _Reason
    image_text_matching_score: _Score
    object_detail_explanation: _Reason
    object_detail_score: _Score
    semantic_understanding_explanation: _Reason
    semantic_understanding_score: _Score
    text_chart_description_explanation: _Reason
    text_chart_description_score: _Score
    overall_explanation: _Reason
    overall_score: _Score


class AssessmentAnswer(StrictModel):
    """Both phases, in the order of writing."""

    raw: Judgement
    recaption: str | None
    """Of a poor raw caption."""
    bad_caption: str | None
    """For a good raw caption."""
    partner: Judgement
    """Of the one of the two that is there."""


class AssessmentTask(GenerationTask):
    """An item is an image with its caption; its records are the raw pair and its partner."""

    name, unit, noun, each, tokens = "assessments", "caption pairs", "assessments", 2, 900
    kinds = ("caption",)

    def __init__(self, options: AssessmentsOptions = AssessmentsOptions()) -> None:  # noqa: B008
        self._good = options.good_from

    def settings(self) -> dict[str, object]:
        """Where good begins."""
        return {"good_from": self._good}

    def items(self, raw: RawSample, max_images: int, keep: bool = False) -> list[RequestItem]:
        """The pair of a sample; the same image with another caption is another item."""
        sample = raw.sample
        if sample is None or sample.kind != "caption":
            raise SampleError(Status.TEXT_MISSING, "not a caption of one image")
        caption = " ".join(part.text for part in sample.parts if isinstance(part, Text))
        if not caption.strip():
            raise SampleError(Status.TEXT_MISSING, "an empty caption")
        pictures = tuple(usable_pictures(sample.images, keep))
        name = item_id("a", pictures, f"\n{caption}")
        return [RequestItem(name, raw.source, raw.index, raw.key, pictures, {"caption": caption})]

    def load_prompts(self, folder: Path | None) -> Prompts:
        """The task, and what the scales mean; raises RequestError."""
        places = {_TASK: ("caption", "good", "scales", "answer")}
        (task, scales), version = read_prompt_files(folder, [_TASK, _SCALES], places)
        return Prompts(Template(task), {}, {"scales": scales}, version)

    def values(self, item: RequestItem) -> dict[str, str]:
        """The caption, and where good begins."""
        return {"caption": as_json(item.content["caption"]), "good": str(self._good)}

    def schema(self) -> dict[str, Any]:
        """Two judgements, and what is written between them."""
        return AssessmentAnswer.model_json_schema()

    def check(self, fields: Any, item: RequestItem) -> Fields:
        """Just the one of the two captions that the score of the raw one asks for."""
        answer = AssessmentAnswer.model_validate(fields)
        raw, partner = answer.raw.overall_score, answer.partner.overall_score
        is_good = raw >= self._good
        wanted, other = ("bad_caption", "recaption") if is_good else ("recaption", "bad_caption")
        if getattr(answer, other) is not None:
            raise TeacherAnswerError(f"{other} is there, and the raw caption has {raw} overall")
        written = getattr(answer, wanted)
        if written is None or not written.strip():
            raise TeacherAnswerError(f"no {wanted}, and the raw caption has {raw} overall")
        if _plain(written) == _plain(item.content["caption"]):
            raise TeacherAnswerError(f"{wanted} is the raw caption")
        if (partner >= self._good) == is_good:
            raise TeacherAnswerError(
                f"the raw caption has {raw} overall, and its partner {partner}"
            )
        return answer.model_dump()

    def records(self, item: RequestItem, answer: Fields) -> Iterator[Fields]:
        """The raw pair, then its partner."""
        read, caption = AssessmentAnswer.model_validate(answer), item.content["caption"]
        (image,) = item.names
        yield _record("raw", image, caption, _strip(read.recaption), read.raw)
        if read.recaption is not None:
            yield _record("partner", image, read.recaption.strip(), None, read.partner)
        else:
            yield _record("partner", image, _strip(read.bad_caption), caption, read.partner)


def _record(
    phase: Phase, image: str, caption: str | None, recaption: str | None, judged: Judgement
) -> Fields:
    """A record, its assessment in the order of the released model's answers."""
    names = [f"{name}_{part}" for name in DIMENSIONS for part in ("score", "explanation")]
    assessment = {"recaption": recaption, **{name: getattr(judged, name) for name in names}}
    return {"image": image, "caption": caption, "assessment": assessment, "phase": phase}


def _strip(text: str | None) -> str | None:
    return None if text is None else text.strip()


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
