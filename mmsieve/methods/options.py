"""Options that all methods with a model have: how images are decoded, and where it computes."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from mmsieve.images import ImageLimits
from mmsieve.options import Options

_MODEL = Parameter(group=Group("Images and device", sort_key=5))
"""Of --help: after what a method asks for itself."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """How images are decoded, and where a model computes."""

    apply_orientation: Annotated[bool, _MODEL] = False
    """Turn images as their EXIF data says (the published code does not)."""
    fast_images: Annotated[bool, _MODEL] = False
    """Decode and resize with simplejpeg and torch: faster, off by a few grey levels."""
    device: Annotated[str, _MODEL] = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], _MODEL] = "auto"
    """auto is float32 on a CPU and bfloat16 on a GPU."""
    image_limits: Annotated[ImageLimits, _MODEL] = field(default_factory=ImageLimits)
    """Beyond these an image is refused."""

    @property
    def of_images(self) -> dict[str, Any]:
        """How a preparer reads images, by the names of its fields."""
        return {
            "orient": self.apply_orientation,
            "fast": self.fast_images,
            "limits": self.image_limits,
        }
