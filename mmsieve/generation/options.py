"""Options of a generation: what is wanted of any teacher, and how those of providers are asked."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from cyclopts import Group, Parameter

from mmsieve.clients.connection import AnswerFormat
from mmsieve.errors import RequestError
from mmsieve.labels import CAPABILITIES, LEVELS
from mmsieve.methods.aitqe.answers import HIGHEST

_NAME = re.compile(r"[a-z][a-z0-9]*")
"""Of a capability: published files join names with underscores, and split them there."""

OPTIONS_OF = "Options of --teacher "
"""Titles of groups of options start so: --help shows them where that teacher is named."""
_Rendered = Parameter(group=Group(f"{OPTIONS_OF}rendered", sort_key=5))

Family: TypeAlias = Literal["core", "many", "chart", "table"]

_TOWER = "google/siglip-base-patch16-224"
"""Small enough for a CPU, and trained on web images."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What to generate, and where it goes."""

    teacher: str
    """Who writes the texts. anthropic:MODEL or openai:MODEL: over the images of SOURCE. rendered:
    draws scenes and writes over them, truth known; --teacher rendered --help shows how."""
    count: int
    """Records to write, train and val together: four texts or two assessments over every image,
    or one rating of every sample."""
    texts_per_image: Annotated[Literal[1, 4], _Rendered] = 4
    """4: one of each level over every image (or every document's images), as training wants it.
    1: one of a random level, as in a pool to filter."""
    seed: int = 0
    """The same seed gives the same images and texts."""
    val_fraction: float = 0.0
    """Part of the images whose texts go to val.json."""
    family: Annotated[Family, _Rendered] = "core"
    """Kind of scenes; the bundled models know the core ones."""
    blank_images: Annotated[bool, _Rendered] = False
    """Draw nothing: a control of what the texts alone give away."""
    shards: Annotated[bool, _Rendered] = False
    """Also write the texts as samples in tars, in `shards`, with their level as metadata."""
    shard_size: Annotated[int, _Rendered] = 1000
    """Samples of a tar."""
    overwrite: bool = False
    """Start again, also where the folder holds other training data, which is removed."""
    dry_run: bool = False
    """Say what would be written, and stop."""
    quiet: bool = False
    """No progress; only the summary."""

    def check(self) -> None:
        """Raise RequestError for what can't be meant."""
        for name in ("count", "shard_size"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise RequestError(f"--{flag} {getattr(self, name)}: must be at least 1")
        if self.texts_per_image not in (1, len(LEVELS)):
            raise RequestError(f"--texts-per-image {self.texts_per_image}: is 1 or {len(LEVELS)}")
        if not 0 <= self.val_fraction <= 1:
            raise RequestError(f"--val-fraction {self.val_fraction}: must be from 0 to 1")
        if self.seed < 0:
            raise RequestError(f"--seed {self.seed}: must be 0 or more")
        if self.family not in get_args(Family):
            raise RequestError(f"--family {self.family}: not one of {', '.join(get_args(Family))}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AssessmentsOptions:
    """How captions are judged, for all teachers but `rendered`."""

    good_from: int = 7
    """Overall score, of 1 to 10, from which a caption is good: its partner is a bad one. Poorer
    ones are rewritten."""

    def check(self) -> None:
        """Raise RequestError for what can't be meant."""
        if not 2 <= self.good_from <= HIGHEST:
            raise RequestError(f"--good-from {self.good_from}: is from 2 to {HIGHEST}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RatingsOptions:
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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TeacherOptions:
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
    diversify: int | None = None
    """Sort the images into so many kinds by what they look like, and take as many of each."""
    diversify_model: str = _TOWER
    """Whose vision tower tells the kinds apart: a CLIP, a SigLIP or a quality classifier."""
    max_images: int = 8
    """Images of a document that are shown."""
    image_side: int = 1024
    """Longest side, in pixels, that images are shown with. What is stored is never changed."""
    max_tokens: int = 8192
    """Tokens of an answer, thinking included."""
    attempts: int = 3
    """Answers that are asked for where the first ones can't be used."""
    concurrency: int = 8
    """Requests at a time."""
    max_in_flight: int = 256
    """Megabytes of images held at a time."""
    max_retries: int = 6
    """Times that a request is sent again after 429, 5xx, a timeout or a broken connection."""
    timeout: float = 120.0
    """Seconds of silence after which a request has failed."""
    price: str | None = None
    """IN,OUT: dollars per million tokens, for models whose price isn't known."""
    max_cost: float | None = None
    """Stop before more than so many dollars are spent, earlier runs included."""
    batch: bool = False
    """Use the provider's batch API: half the price, an answer within a day."""
    poll: float = 60.0
    """Seconds between looks at a batch."""

    def check(self) -> None:
        """Raise RequestError for what can't be meant."""
        for name in ("max_images", "image_side", "max_tokens", "attempts", "concurrency"):
            self._check(name, 1)
        self._check("max_in_flight", 1)
        if self.diversify is not None:
            self._check("diversify", 2)
        elif self.diversify_model != _TOWER:
            raise RequestError("--diversify-model: is for --diversify K, which is missing")
        self._check("max_retries", 0)
        for name in ("timeout", "poll", "max_cost"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RequestError(f"--{name.replace('_', '-')} {value}: must be more than 0")

    def _check(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise RequestError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
