"""Image files that rows name by path: read below one folder only, and within bounds."""

import os
import stat
from pathlib import Path

from mmsieve.errors import SampleError, Status
from mmsieve.listing import one_line
from mmsieve.read.records import MAX_BYTES


class ImageFolder:
    """The folder that image paths are relative to; no path leaves it, by `..` or by a link."""

    def __init__(self, folder: Path) -> None:
        self._root = Path(os.path.realpath(folder))

    def read(self, name: str) -> bytes:
        """The bytes of an image file; raises SampleError."""
        try:
            # A name may be absolute, and a link may lead out: only the resolved path tells.
            path = Path(os.path.realpath(self._root / name))
            if not path.is_relative_to(self._root):
                raise SampleError(Status.IMAGE_MISSING, f"{name!r} leaves the folder of images")
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # to read a pipe would wait for ever
                raise SampleError(Status.IMAGE_MISSING, f"{name!r} is not a file")
            if found.st_size > MAX_BYTES:
                message = f"{name!r} has {found.st_size} bytes, {MAX_BYTES} can be read"
                raise SampleError(Status.IMAGE_TOO_LARGE, message)
            return path.read_bytes()
        except (OSError, ValueError) as error:
            message = f"{name!r} can't be read: {one_line(error)}"
            raise SampleError(Status.IMAGE_MISSING, message) from error
