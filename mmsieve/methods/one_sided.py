"""A quality classifier shown one side only: how much text, or image, gives away by itself.

`text-only` puts a blank image, of the tower's mean colour, in the place of every image;
`image-only` shows the images with no text: a caption becomes an empty one, a document the row of
its images. What such a control still gets right of the levels needs no look at the other side. It
is the same classifier, untrained for such inputs: one trained on them could do better, so a low
number does not prove that there is nothing to find.

Images are never opened for `text-only`: a broken one is as blank as the others.
"""

import io
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import PIL.Image

from mmsieve.annotator import Runner, RunnerOptions
from mmsieve.images import ImageLimits, ImageSpec
from mmsieve.methods.unifilter import SCHEMA, UniFilter
from mmsieve.methods.unifilter_inputs import Item, UniFilterPreparer
from mmsieve.sample import Image, Part, Sample, Text

Side: TypeAlias = Literal["text", "image"]


@dataclass(frozen=True)
class OneSidedPreparer:
    """The classifier's own preparer, given half of each sample."""

    whole: UniFilterPreparer
    side: Side
    blank: Image

    def prepare(self, sample: Sample) -> Item:
        """The inputs of what is shown; raises SampleError as the classifier's preparer does."""
        return self.whole.prepare(replace(sample, parts=self._shown(sample)))

    def _shown(self, sample: Sample) -> tuple[Part, ...]:
        if self.side == "text":
            return tuple(self.blank if isinstance(p, Image) else p for p in sample.parts)
        if sample.kind == "document":
            return sample.images
        return tuple(Text("") if isinstance(p, Text) else p for p in sample.parts)


class OneSided:
    """A quality classifier that is shown texts only, or images only, as an annotator."""

    kind: Literal["quality"] = "quality"
    schema = SCHEMA

    def __init__(self, classifier: UniFilter, side: Side) -> None:
        self._classifier = classifier
        self._side = side
        self.device = classifier.device
        self.score_is_level = classifier.score_is_level
        self.fingerprint = classifier.fingerprint | {"shown": f"{side} only"}

    def preparer(self) -> OneSidedPreparer:
        """The CPU half."""
        whole = self._classifier.preparer()
        if self._side == "text":  # no image of the sample is opened, so no limit has a meaning
            whole = replace(whole, limits=ImageLimits())
        return OneSidedPreparer(whole, self._side, _blank(whole.image))

    def runner(self, options: RunnerOptions) -> Runner:
        """The classifier's own device half."""
        return self._classifier.runner(options)


def _blank(spec: ImageSpec) -> Image:
    red, green, blue = (min(255, int(channel / spec.scale)) for channel in spec.mean)
    out = io.BytesIO()
    PIL.Image.new("RGB", (spec.size, spec.size), (red, green, blue)).save(out, "PNG")
    return Image(out.getvalue())
