"""mmsieve cleans the image-text data that multimodal models learn from.

Its public names are those of `__init__.pyi`. Importing it loads neither torch nor ray: every name
is resolved when it is first used.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("mmsieve")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
