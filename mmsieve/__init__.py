"""mmsieve cleans the image-text data that multimodal models learn from.

Importing it loads neither torch nor ray: every name is resolved when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsieve.engine.annotator import Annotator, Preparer, Runner, RunnerOptions
    from mmsieve.engine.run import RunOptions, RunReport
    from mmsieve.errors import MmsieveError, RequestError, SampleError, ShardError, Status
    from mmsieve.evaluation.agreement import AgreementOptions
    from mmsieve.evaluation.metrics import Metrics
    from mmsieve.generation.options import (
        AssessmentsOptions,
        GenerateOptions,
        RatingsOptions,
        TeacherOptions,
    )
    from mmsieve.images import decode as decode_image
    from mmsieve.methods.aitqe.annotator import EnhanceOptions
    from mmsieve.methods.base import BatchRunner
    from mmsieve.methods.files import hash_files
    from mmsieve.methods.load import find_folder, load_enhancer, load_model, load_rater
    from mmsieve.methods.mmssr.annotator import RatingOptions
    from mmsieve.methods.unifilter.annotator import ScoringOptions
    from mmsieve.read.records import ReadOptions
    from mmsieve.sample import Image, Sample, Text, Turn
    from mmsieve.synthetic.demo import DemoReport, demo
    from mmsieve.training.options import TrainOptions
    from mmsieve.verbs.convert import ConvertReport, convert
    from mmsieve.verbs.enhance import enhance
    from mmsieve.verbs.evaluate import EvaluateOptions, EvaluateReport, evaluate
    from mmsieve.verbs.export import ExportOptions, ExportReport, export
    from mmsieve.verbs.filter import CutOptions, FilterReport
    from mmsieve.verbs.filter import filter_tables as filter
    from mmsieve.verbs.generate import (
        GenerateReport,
        generate_assessments,
        generate_captions,
        generate_documents,
        generate_ratings,
    )
    from mmsieve.verbs.models import ModelsReport, list_models
    from mmsieve.verbs.rate import rate
    from mmsieve.verbs.report import PageReport, ReportOptions, report
    from mmsieve.verbs.score import score
    from mmsieve.verbs.select import SelectOptions, SelectReport, select
    from mmsieve.verbs.train import (
        TrainReport,
        train_classifier,
        train_enhancer,
        train_projector,
        train_rater,
    )


__all__ = [
    "AgreementOptions",
    "Annotator",
    "AssessmentsOptions",
    "BatchRunner",
    "ConvertReport",
    "CutOptions",
    "DemoReport",
    "EnhanceOptions",
    "EvaluateOptions",
    "EvaluateReport",
    "ExportOptions",
    "ExportReport",
    "FilterReport",
    "GenerateOptions",
    "GenerateReport",
    "Image",
    "Metrics",
    "MmsieveError",
    "ModelsReport",
    "PageReport",
    "Preparer",
    "RatingOptions",
    "RatingsOptions",
    "ReadOptions",
    "ReportOptions",
    "RequestError",
    "RunOptions",
    "RunReport",
    "Runner",
    "RunnerOptions",
    "Sample",
    "SampleError",
    "ScoringOptions",
    "SelectOptions",
    "SelectReport",
    "ShardError",
    "Status",
    "TeacherOptions",
    "Text",
    "TrainOptions",
    "TrainReport",
    "Turn",
    "convert",
    "decode_image",
    "demo",
    "enhance",
    "evaluate",
    "export",
    "filter",
    "find_folder",
    "generate_assessments",
    "generate_captions",
    "generate_documents",
    "generate_ratings",
    "hash_files",
    "list_models",
    "load_enhancer",
    "load_model",
    "load_rater",
    "rate",
    "report",
    "score",
    "select",
    "train_classifier",
    "train_enhancer",
    "train_projector",
    "train_rater",
]

_HOMES = {
    "AgreementOptions": "mmsieve.evaluation.agreement",
    "Annotator": "mmsieve.engine.annotator",
    "AssessmentsOptions": "mmsieve.generation.options",
    "BatchRunner": "mmsieve.methods.base",
    "ConvertReport": "mmsieve.verbs.convert",
    "CutOptions": "mmsieve.verbs.filter",
    "EnhanceOptions": "mmsieve.methods.aitqe.annotator",
    "EvaluateOptions": "mmsieve.verbs.evaluate",
    "EvaluateReport": "mmsieve.verbs.evaluate",
    "ExportOptions": "mmsieve.verbs.export",
    "ExportReport": "mmsieve.verbs.export",
    "FilterReport": "mmsieve.verbs.filter",
    "GenerateOptions": "mmsieve.generation.options",
    "GenerateReport": "mmsieve.verbs.generate",
    "Image": "mmsieve.sample",
    "Metrics": "mmsieve.evaluation.metrics",
    "MmsieveError": "mmsieve.errors",
    "ModelsReport": "mmsieve.verbs.models",
    "PageReport": "mmsieve.verbs.report",
    "Preparer": "mmsieve.engine.annotator",
    "RatingOptions": "mmsieve.methods.mmssr.annotator",
    "RatingsOptions": "mmsieve.generation.options",
    "ReadOptions": "mmsieve.read.records",
    "ReportOptions": "mmsieve.verbs.report",
    "RequestError": "mmsieve.errors",
    "RunOptions": "mmsieve.engine.run",
    "RunReport": "mmsieve.engine.run",
    "Runner": "mmsieve.engine.annotator",
    "RunnerOptions": "mmsieve.engine.annotator",
    "Sample": "mmsieve.sample",
    "SampleError": "mmsieve.errors",
    "ScoringOptions": "mmsieve.methods.unifilter.annotator",
    "SelectOptions": "mmsieve.selection.options",
    "SelectReport": "mmsieve.verbs.select",
    "ShardError": "mmsieve.errors",
    "Status": "mmsieve.errors",
    "TeacherOptions": "mmsieve.generation.options",
    "Text": "mmsieve.sample",
    "TrainOptions": "mmsieve.training.options",
    "TrainReport": "mmsieve.verbs.train",
    "Turn": "mmsieve.sample",
    "convert": "mmsieve.verbs.convert",
    "decode_image": "mmsieve.images:decode",
    "enhance": "mmsieve.verbs.enhance",
    "evaluate": "mmsieve.verbs.evaluate",
    "export": "mmsieve.verbs.export",
    "filter": "mmsieve.verbs.filter:filter_tables",
    "find_folder": "mmsieve.methods.load",
    "generate_assessments": "mmsieve.verbs.generate",
    "generate_captions": "mmsieve.verbs.generate",
    "generate_documents": "mmsieve.verbs.generate",
    "generate_ratings": "mmsieve.verbs.generate",
    "hash_files": "mmsieve.methods.files",
    "list_models": "mmsieve.verbs.models",
    "load_enhancer": "mmsieve.methods.load",
    "load_model": "mmsieve.methods.load",
    "load_rater": "mmsieve.methods.load",
    "rate": "mmsieve.verbs.rate",
    "report": "mmsieve.verbs.report",
    "score": "mmsieve.verbs.score",
    "select": "mmsieve.verbs.select",
    "train_classifier": "mmsieve.verbs.train",
    "train_enhancer": "mmsieve.verbs.train",
    "train_projector": "mmsieve.verbs.train",
    "train_rater": "mmsieve.verbs.train",
}
"""Name -> module, or module:attribute where it has another name there."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mmsieve' has no attribute {name!r}")
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        value = getattr(import_module(module), attribute or name)
    else:
        value = import_module("mmsieve.registry").find("public name", name)
    globals()[name] = value
    return value
