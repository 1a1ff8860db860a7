"""mmsieve cleans the image-text data that multimodal models learn from.

Importing it loads neither torch nor ray: every name is resolved when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsieve.errors import MmsieveError, RequestError, SampleError, ShardError, Status
    from mmsieve.methods.load import load_model
    from mmsieve.methods.unifilter import ScoringOptions
    from mmsieve.read.records import ReadOptions
    from mmsieve.run import RunOptions, RunReport
    from mmsieve.sample import Image, Sample, Text
    from mmsieve.verbs.export import ExportOptions, ExportReport, export
    from mmsieve.verbs.filter import CutOptions, FilterReport
    from mmsieve.verbs.filter import filter_tables as filter
    from mmsieve.verbs.score import score

__all__ = [
    "CutOptions",
    "ExportOptions",
    "ExportReport",
    "FilterReport",
    "Image",
    "MmsieveError",
    "ReadOptions",
    "RequestError",
    "RunOptions",
    "RunReport",
    "Sample",
    "SampleError",
    "ScoringOptions",
    "ShardError",
    "Status",
    "Text",
    "export",
    "filter",
    "load_model",
    "score",
]

_HOMES = {
    "CutOptions": "mmsieve.verbs.filter",
    "ExportOptions": "mmsieve.verbs.export",
    "ExportReport": "mmsieve.verbs.export",
    "FilterReport": "mmsieve.verbs.filter",
    "Image": "mmsieve.sample",
    "MmsieveError": "mmsieve.errors",
    "ReadOptions": "mmsieve.read.records",
    "RequestError": "mmsieve.errors",
    "RunOptions": "mmsieve.run",
    "RunReport": "mmsieve.run",
    "Sample": "mmsieve.sample",
    "SampleError": "mmsieve.errors",
    "ScoringOptions": "mmsieve.methods.unifilter",
    "ShardError": "mmsieve.errors",
    "Status": "mmsieve.errors",
    "Text": "mmsieve.sample",
    "export": "mmsieve.verbs.export",
    "filter": "mmsieve.verbs.filter",
    "load_model": "mmsieve.methods.load",
    "score": "mmsieve.verbs.score",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmsieve' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), "filter_tables" if name == "filter" else name)
    globals()[name] = value
    return value
