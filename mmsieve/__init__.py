"""mmsieve cleans the image-text data that multimodal models learn from.

Importing it loads neither torch nor ray: every name is resolved when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from mmsieve.methods.aitqe.annotator import EnhanceOptions
    from mmsieve.methods.load import load_enhancer, load_model, load_rater
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
    "AssessmentsOptions",
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
    "RatingOptions",
    "RatingsOptions",
    "ReadOptions",
    "ReportOptions",
    "RequestError",
    "RunOptions",
    "RunReport",
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
    "demo",
    "enhance",
    "evaluate",
    "export",
    "filter",
    "generate_assessments",
    "generate_captions",
    "generate_documents",
    "generate_ratings",
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
    "AssessmentsOptions": "mmsieve.generation.options",
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
    "RatingOptions": "mmsieve.methods.mmssr.annotator",
    "RatingsOptions": "mmsieve.generation.options",
    "ReadOptions": "mmsieve.read.records",
    "ReportOptions": "mmsieve.verbs.report",
    "RequestError": "mmsieve.errors",
    "RunOptions": "mmsieve.engine.run",
    "RunReport": "mmsieve.engine.run",
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
    "enhance": "mmsieve.verbs.enhance",
    "evaluate": "mmsieve.verbs.evaluate",
    "export": "mmsieve.verbs.export",
    "filter": "mmsieve.verbs.filter",
    "generate_assessments": "mmsieve.verbs.generate",
    "generate_captions": "mmsieve.verbs.generate",
    "generate_documents": "mmsieve.verbs.generate",
    "generate_ratings": "mmsieve.verbs.generate",
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'mmsieve' has no attribute {name!r}")
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), "filter_tables" if name == "filter" else name)
    else:
        value = import_module("mmsieve.registry").find("public name", name)
    globals()[name] = value
    return value
