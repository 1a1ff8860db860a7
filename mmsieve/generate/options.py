"""Options of the teachers that are asked over a network."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.generate.prompts import AnswerFormat


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
        self._check("max_retries", 0)
        for name in ("timeout", "poll", "max_cost"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RequestError(f"--{name.replace('_', '-')} {value}: must be more than 0")

    def _check(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value < least:
            raise RequestError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
