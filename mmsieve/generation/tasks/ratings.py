"""Ratings: how useful an instruction sample is for each capability, and which styles it has.

mmSSR's labels (arXiv 2503.13383): a rating from 0 to 5 for each capability, with a reason, and one
or more of nine styles, all in one request.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from string import Template
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, create_model

from mmsieve.errors import SampleError, Status
from mmsieve.generation.options import RatingsOptions
from mmsieve.generation.tasks import (
    Fields,
    GenerationTask,
    Prompts,
    RawSample,
    RequestItem,
    StrictModel,
    as_json,
    check_scale,
    item_id,
    not_empty,
    picture_of,
    read_prompt_files,
)
from mmsieve.labels import STYLES

_FILES = tuple(f"ratings/{name}.md" for name in ("task", "ratings", "styles"))
_ROLES = {"user": "human", "assistant": "gpt", "system": "system"}
"""Of turns -> of the items of LLaVA's files."""


def _some_styles(styles: list[str]) -> list[str]:
    if not styles or len(set(styles)) < len(styles):
        raise ValueError("name at least one style, and each once")
    return [style for style in STYLES if style in styles]


class Rating(StrictModel):
    """Why, and how useful."""

    reason: Annotated[str, AfterValidator(not_empty)]
    rating: Annotated[
        int, Field(strict=True), AfterValidator(partial(check_scale, lowest=0, highest=5))
    ]


def answer_model(capabilities: Mapping[str, str]) -> type[BaseModel]:
    """The answer about these capabilities, in the order of writing."""
    # Numbered, as a capability may have the name of one of pydantic's methods.
    fields: dict[str, Any] = {
        f"capability_{n}": (Rating, Field(alias=name)) for n, name in enumerate(capabilities)
    }
    ratings = create_model("Ratings", __base__=StrictModel, **fields)
    labels: Any = Literal[STYLES]
    styles = Annotated[list[labels], AfterValidator(_some_styles)]
    return create_model(
        "RatingAnswer", __base__=StrictModel, ratings=(ratings, ...), styles=(styles, ...)
    )


class RatingTask(GenerationTask):
    """An item is an instruction sample: its images and its conversation."""

    name, unit, noun, each, tokens = "ratings", "instruction samples", "rated samples", 1, 700
    kinds = ("instruction",)

    def __init__(self, options: RatingsOptions = RatingsOptions()) -> None:  # noqa: B008
        self._capabilities = options.chosen()
        self._answer = answer_model(self._capabilities)

    def settings(self) -> dict[str, object]:
        """What is rated."""
        return {"capabilities": self._capabilities}

    def items(self, raw: RawSample, max_images: int, keep: bool = False) -> list[RequestItem]:
        """The sample, whose images must all be there: the conversation may be about any."""
        sample = raw.sample
        if sample is None or not sample.turns:
            raise SampleError(Status.TEXT_MISSING, "no conversation")
        if len(sample.images) > max_images:
            message = f"images: {len(sample.images):,}, more than --max-images {max_images:,}"
            raise SampleError(Status.NO_USABLE_IMAGE, message)
        pictures = tuple(picture_of(image, keep) for image in sample.images)
        turns = [{"from": _ROLES[turn.role], "value": turn.text} for turn in sample.turns]
        content = {"conversations": turns, "image_source": sample.metadata.get("image_source")}
        name = item_id("r", pictures, f"\n{as_json(turns)}")
        return [RequestItem(name, raw.source, raw.index, raw.key, pictures, content)]

    def load_prompts(self, folder: Path | None) -> Prompts:
        """The task, and what ratings and styles mean; raises RequestError."""
        task, ratings, styles = _FILES
        places = {
            task: ("conversation", "ratings", "styles", "answer"),
            ratings: ("capabilities",),
            styles: ("labels",),
        }
        texts, version = read_prompt_files(folder, _FILES, places)
        whole, *parts = map(Template, texts)
        return Prompts(whole, dict(zip(("ratings", "styles"), parts, strict=True)), {}, version)

    def values(self, item: RequestItem) -> dict[str, str]:
        """The conversation, and the names that the answer has."""
        images = len(item.pictures)
        named = (f"- `{name}`: {keyword}" for name, keyword in self._capabilities.items())
        return {
            "images": {0: "no image", 1: "one image"}.get(images, f"{images} images"),
            "conversation": as_json(item.content["conversations"], indent=1),
            "capabilities": "\n".join(named),
            "labels": "\n".join(f"- `{style}`" for style in STYLES),
        }

    def schema(self) -> dict[str, Any]:
        """A rating per capability, and the styles."""
        return self._answer.model_json_schema()

    def check(self, fields: Any, item: RequestItem) -> Fields:
        """Ratings from 0 to 5, each with a reason, and styles of the nine."""
        return self._answer.model_validate(fields).model_dump(by_alias=True)

    def records(self, item: RequestItem, answer: Fields) -> Iterator[Fields]:
        """The item as LLaVA's files have it, rated."""
        names = item.names
        image = {} if not names else {"image": names[0] if len(names) == 1 else names}
        yield {
            # A number of its own, whatever the other samples are.
            "idx": int(item.id[1:13], 16),
            **image,
            "conversations": item.content["conversations"],
            "image_source": item.content["image_source"],
            "ratings": {name: one["rating"] for name, one in answer["ratings"].items()},
            "reasons": {name: one["reason"] for name, one in answer["ratings"].items()},
            "styles": answer["styles"],
        }
