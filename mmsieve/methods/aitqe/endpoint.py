"""AITQE behind a server that speaks OpenAI's chat completions: `endpoint:URL#NAME`.

What `convert` writes can be served by vLLM, SGLang or `transformers serve`; the server puts the
image in front of the text that it is sent. Needs the extra [teachers].
"""

import base64
import io
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import PIL.Image

from mmsieve.devices import resolve_device
from mmsieve.engine.annotator import Runner, RunnerOptions
from mmsieve.errors import RequestError, SampleError
from mmsieve.images import ImageLimits, decode
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.aitqe.inputs import question, read_caption
from mmsieve.methods.aitqe.rows import kept
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.sample import Sample

# What is sent to a server for one sample: the image as a data URL, and the prompt's words

_AS_IT_IS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
"""First bytes of files that any server reads; others are sent as PNG."""


@dataclass(frozen=True)
class Endpoint:
    """A model on a server."""

    url: str
    model: str


@dataclass(frozen=True, slots=True)
class EndpointItem:
    """What is sent for one sample."""

    words: str
    url: str
    """The image, as a data URL."""
    caption: str
    sample: Sample | None

    @property
    def nbytes(self) -> int:
        """What it takes in memory, more or less."""
        return len(self.url)


@dataclass(frozen=True)
class EndpointPreparer:
    """The CPU half: checks the image, and encodes it for sending."""

    orient: bool
    limits: ImageLimits
    keep_sample: bool

    def prepare(self, sample: Sample) -> EndpointItem:
        """The request of a caption pair; raises SampleError where it can't be judged."""
        caption = read_caption(sample)
        try:
            url = self._url(sample.images[0].data)
        except SampleError as error:
            raise error.knowing(kept(caption)) from error
        words = "\n" + question(caption, plain=False)
        return EndpointItem(words, url, caption, sample if self.keep_sample else None)

    def _url(self, data: bytes) -> str:
        pixels = decode(data, self.limits, 0, self.orient)
        kind = next((kind for magic, kind in _AS_IT_IS.items() if data.startswith(magic)), None)
        if kind is None or self.orient:
            out = io.BytesIO()
            PIL.Image.fromarray(pixels).save(out, "PNG")
            kind, data = "png", out.getvalue()
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# AITQE behind a server that speaks OpenAI's chat completions: `endpoint:URL#NAME`

SCHEME = "endpoint:"
KEY_VARIABLE = "MMSIEVE_ENDPOINT_KEY"
_NO_KEY = "none"
"""A server of one's own may want no key, but the SDK wants one."""


def parse_endpoint(name: str) -> Endpoint:
    """The endpoint of `endpoint:URL#NAME`; raises RequestError."""
    url, _, model = name.removeprefix(SCHEME).partition("#")
    if not re.match(r"https?://[^\s/]", url) or not model:
        raise RequestError(
            f"model {name!r}: give {SCHEME}URL#NAME, such as {SCHEME}http://localhost:8000/v1#aitqe"
        )
    if find_spec("openai") is None:
        raise RequestError(f"model {name!r}: needs a package: pip install 'mmsieve[teachers]'")
    return Endpoint(url, model)


class AitqeEndpoint:
    """AITQE on a server, as an annotator."""

    kind: Literal["assessment"] = "assessment"

    def __init__(
        self, endpoint: Endpoint, enhancing: EnhanceOptions, options: ScoringOptions
    ) -> None:
        self._endpoint, self._enhancing, self._options = endpoint, enhancing, options
        self.device = resolve_device(options.device)
        self.schema = enhancing.rows.schema
        self.fingerprint = {
            "method": "aitqe endpoint 1",
            "endpoint": f"{endpoint.url}#{endpoint.model}",
            "apply_orientation": str(options.apply_orientation),
            "image_limits": str(options.image_limits),
            **enhancing.fingerprint,
        }

    def preparer(self) -> EndpointPreparer:
        """The CPU half."""
        return EndpointPreparer(
            orient=self._options.apply_orientation,
            limits=self._options.image_limits,
            keep_sample=self._enhancing.accept_if_better is not None,
        )

    def runner(self, options: RunnerOptions) -> Runner:
        """The half that holds the connections; `options` are for devices of one's own."""
        from mmsieve.methods.aitqe.endpoint_runner import EndpointRunner

        key = os.environ.get(KEY_VARIABLE, "").strip() or _NO_KEY
        return EndpointRunner(self._endpoint, key, self._enhancing)
