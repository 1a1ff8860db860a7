"""What is sent to a server for one sample: the image as a data URL, and the prompt's words."""

import base64
import io
from dataclasses import dataclass

import PIL.Image

from mmsieve.errors import SampleError
from mmsieve.images import ImageLimits, decode
from mmsieve.methods.aitqe_inputs import question, read_caption
from mmsieve.methods.aitqe_rows import kept
from mmsieve.sample import Sample

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
