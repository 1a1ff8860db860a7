"""Options of a generation: what is wanted of any teacher, and how those of providers are asked."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Group, Parameter

from mmsieve.clients.teacher import AnswerFormat
from mmsieve.errors import RequestError
from mmsieve.labels import CAPABILITIES
from mmsieve.methods.aitqe.answers import HIGHEST
from mmsieve.options import (
    AboveZero,
    ClusterOptions,
    NotNegative,
    Options,
    Positive,
    ZeroToOne,
    whole,
)

_NAME = re.compile(r"[a-z][a-z0-9]*")
"""Of a capability: published files join names with underscores, and split them there."""

OPTIONS_OF = "Options of --teacher "
"""Titles of groups of options start so: --help shows them where that teacher is named."""
_Rendered = Parameter(group=Group(f"{OPTIONS_OF}rendered", sort_key=5))

DATA = Group("Data to write", sort_key=1)

Family: TypeAlias = Literal["core", "many", "chart", "table"]

_TOWER = "google/siglip-base-patch16-224"  # small enough for a CPU, and trained on web images


@Parameter(name="*", group=DATA)
@dataclass(frozen=True, kw_only=True)
class GenerateOptions(ClusterOptions):
    """What to generate, and where it goes."""

    teacher: str
    """Who writes the texts. anthropic:MODEL or openai:MODEL: over the images of SOURCE. rendered:
    draws scenes and writes over them, truth known; --teacher rendered --help shows how."""
    count: Positive
    """Records to write, train and val together: four texts or two assessments over every image,
    or one rating of every sample."""
    texts_per_image: Annotated[Literal[1, 4], _Rendered] = 4
    """4: one of each level over every image (or every document's images), as training wants it.
    1: one of a random level, as in a pool to filter."""
    seed: NotNegative = 0
    """The same seed gives the same images and texts."""
    val_fraction: ZeroToOne = 0.0
    """Part of the images whose texts go to val.json."""
    family: Annotated[Family, _Rendered] = "core"
    """Kind of scenes; the bundled models know the core ones."""
    blank_images: Annotated[bool, _Rendered] = False
    """Draw nothing: a control of what the texts alone give away."""
    shards: Annotated[bool, _Rendered] = False
    """Also write the texts as samples in tars, in `shards`, with their level as metadata."""
    shard_size: Annotated[Positive, _Rendered] = 1000
    """Samples of a tar."""


@Parameter(name="*", group=DATA)
@dataclass(frozen=True, kw_only=True)
class AssessmentsOptions(Options):
    """How captions are judged, for all teachers but `rendered`."""

    good_from: Annotated[int, whole(gte=2, lte=HIGHEST)] = 7
    """Overall score, of 1 to 10, from which a caption is good: its partner is a bad one. Poorer
    ones are rewritten."""


@Parameter(name="*", group=DATA)
@dataclass(frozen=True, kw_only=True)
class RatingsOptions(Options):
    """What samples are rated for, for all teachers but `rendered`."""

    capabilities: str | None = None
    """NAME,NAME,...: all 14 by default. A new one is NAME=KEYWORD, the keyword what it is in
    words: letters and digits make a name."""

    def chosen(self) -> dict[str, str]:
        """Name -> keyword; raises RequestError."""
        if self.capabilities is None:
            return dict(CAPABILITIES)
        found: dict[str, str] = {}
        for part in self.capabilities.split(","):
            name, _, keyword = (word.strip() for word in part.partition("="))
            keyword = keyword or CAPABILITIES.get(name, "")
            if not _NAME.fullmatch(name) or name in found or not keyword:
                known = ", ".join(CAPABILITIES)
                raise RequestError(
                    f"--capabilities {part}: is NAME=KEYWORD, once, the name of letters and "
                    f"digits, or one of {known}"
                )
            found[name] = keyword
        return found


@Parameter(name="*", group=Group("Teacher", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class TeacherOptions(Options):
    """How a teacher is asked, for all teachers but `rendered`. Keys come from the environment."""

    base_url: str | None = None
    """Server to ask instead of the provider's own (vLLM, SGLang, a gateway)."""
    prompts: Path | None = None
    """Folder of prompt files, in place of the bundled ones."""
    answer_format: AnswerFormat = "schema"
    """schema: the server is held to a JSON schema. json: it is only asked in words, for servers
    that can't be."""
    positives: str | None = None
    """A training file or a SOURCE of captions that people wrote, mixed in at the best level."""
    diversify: Annotated[int, whole(gte=2)] | None = None
    """Sort the images into so many kinds by what they look like, and take as many of each."""
    diversify_model: str = _TOWER
    """Whose vision tower tells the kinds apart: a CLIP, a SigLIP or a quality classifier."""
    max_images: Positive = 8
    """Images of a document that are shown."""
    image_side: Positive = 1024
    """Longest side, in pixels, that images are shown with. What is stored is never changed."""
    max_tokens: Positive = 8192
    """Tokens of an answer, thinking included."""
    attempts: Positive = 3
    """Answers that are asked for where the first ones can't be used."""
    concurrency: Positive = 8
    """Requests at a time."""
    max_in_flight: Positive = 256
    """Megabytes of images held at a time."""
    max_retries: NotNegative = 6
    """Times that a request is sent again after 500, a timeout or a broken connection."""
    timeout: AboveZero = 120.0
    """Seconds of silence after which a request has failed."""
    price: str | None = None
    """IN,OUT: dollars per million tokens, for models whose price isn't known."""
    max_cost: AboveZero | None = None
    """Stop before more than so many dollars are spent, earlier runs included."""
    batch: bool = False
    """Use the provider's batch API: half the price, an answer within a day."""
    poll: AboveZero = 60.0
    """Seconds between looks at a batch."""

    def check(self) -> None:
        """Raise RequestError for what can't be meant."""
        if self.diversify is None and self.diversify_model != _TOWER:
            raise RequestError("--diversify-model: is for --diversify K, which is missing")
