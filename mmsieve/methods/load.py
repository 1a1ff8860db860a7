"""A MODEL's name -> its annotator, or the model for use on its own.

A bundled name, a folder or a Hugging Face id is a quality classifier; METHOD:MODEL says that the
model is another one, or is used otherwise; `rules` needs none.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmsieve.devices import resolve_device, resolve_dtype
from mmsieve.engine.annotator import Annotator, QualityAnnotator, Row, RunnerOptions
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.methods.aitqe.annotator import Aitqe, EnhanceOptions, Judged
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.aitqe.endpoint import SCHEME, AitqeEndpoint, parse_endpoint
from mmsieve.methods.catalog import bundled_folder, bundled_names
from mmsieve.methods.clip.annotator import Clip
from mmsieve.methods.clip.checkpoint import open_clip
from mmsieve.methods.files import HUB_ID, hub_folder
from mmsieve.methods.mmssr.annotator import MmSSR, RatingOptions
from mmsieve.methods.mmssr.checkpoint import OneVision, open_onevision
from mmsieve.methods.rules import Rules
from mmsieve.methods.unifilter.annotator import OneSided, ScoringOptions, UniFilter
from mmsieve.methods.unifilter.checkpoint import open_checkpoint
from mmsieve.sample import Sample

# A model on its own: samples in, rows out, all in this process


class AnnotatedModel:
    """An annotator with its weights loaded."""

    def __init__(self, annotator: Annotator, batch_tokens: int | None = None) -> None:
        self._annotator = annotator
        self._preparer = annotator.preparer()
        self._runner = annotator.runner(RunnerOptions(annotator.device, batch_tokens))

    def annotate(self, samples: Iterable[Sample]) -> list[Row]:
        """A row per sample, in order: `key`, `status`, `error`, and the columns of the schema.

        A sample that can't be used has its reason as status, and None in the other columns but
        for what is known of it all the same.
        """
        rows: list[Row] = []
        ready: list[tuple[int, Any]] = []
        for sample in samples:
            rows.append({"key": sample.key, "status": str(Status.OK), "error": None})
            rows[-1] |= dict.fromkeys(self._annotator.schema.names)
            try:
                ready.append((len(rows) - 1, self._preparer.prepare(sample)))
            except SampleError as error:
                rows[-1] |= _failed(error)
        for index, row in self._runner.run(ready):
            rows[index] |= _failed(row) if isinstance(row, SampleError) else row
        return rows


def _failed(error: SampleError) -> Row:
    return {**error.known, "status": str(error.status), "error": str(error)}


# Models by name -> the annotator that scores with it


def load_annotator(model: str, options: ScoringOptions | None = None) -> QualityAnnotator:
    """The annotator of a model by its name, such as `clip:folder`. Loads no weights.

    Raises RequestError where there is no such model or mmsieve can't score with it.
    """
    options = options or ScoringOptions()
    method, colon, name = str(model).partition(":")
    if method == _RULES:
        if colon:
            raise RequestError(f"model {model!r}: {_RULES} takes no model")
        return Rules(options)
    if not colon or method not in _METHODS:
        return load_unifilter(model, options)
    if not name:
        raise RequestError(f"model {model!r}: name a model after the colon, a folder or an id")
    return _METHODS[method](name, options)


def load_unifilter(model: str, options: ScoringOptions | None = None) -> UniFilter:
    """The annotator of a quality classifier; raises RequestError as `load_annotator` does."""
    options = options or ScoringOptions()
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    return UniFilter(open_checkpoint(find_model(str(model))), options, device, dtype)


def _load_clip(model: str, options: ScoringOptions) -> Clip:
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    return Clip(open_clip(find_folder(model, _ANY)), options, device, dtype)


def _load_text_only(model: str, options: ScoringOptions) -> OneSided:
    return OneSided(load_unifilter(model, options), "text")


def _load_image_only(model: str, options: ScoringOptions) -> OneSided:
    return OneSided(load_unifilter(model, options), "image")


_METHODS: dict[str, Callable[[str, ScoringOptions], QualityAnnotator]] = {
    "clip": _load_clip,
    "text-only": _load_text_only,
    "image-only": _load_image_only,
}
_RULES = "rules"


def find_model(model: str) -> Path:
    """The folder of a quality classifier; raises RequestError, in one line, where there is none."""
    others = ", ".join([*(f"{method}:MODEL" for method in _METHODS), _RULES])
    allowed = f"a bundled model ({', '.join(bundled_names('score'))}), {_ANY}; or {others}"
    return bundled_folder(model) or find_folder(model, allowed)


_ANY = "a folder with config.json and *.safetensors, or a Hugging Face id (owner/name)"


def find_folder(model: str, allowed: str) -> Path:
    """The folder of a model that is not bundled; raises RequestError that says what is allowed."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise RequestError(f"model {model!r} is a file: give {allowed}")
    if not HUB_ID.fullmatch(model):
        raise RequestError(f"no model {model!r}: give {allowed}")
    found = hub_folder(model)
    if found is None:
        raise RequestError(
            f"no folder {model!r}, and no such model in the local Hugging Face cache or on the "
            f"hub as reached from here: give {allowed}"
        )
    return found


class ScoringModel(AnnotatedModel):
    """A model on its own: samples in, rows out, all in this process."""

    def __init__(self, annotator: QualityAnnotator, batch_tokens: int | None = None) -> None:
        super().__init__(annotator, batch_tokens)
        self.annotator = annotator

    def score(self, samples: Iterable[Sample]) -> list[Row]:
        """A row per sample, in order: `key`, `status`, `error`, and the columns of the schema.

        A sample that can't be scored has its reason as status and None in the other columns.
        """
        return self.annotate(samples)


def load_model(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    **options: Any,
) -> ScoringModel:
    """A model ready to score: `load_model("folder").score([Sample.caption("a.jpg", "A dog.")])`.

    `options` are those of ScoringOptions. Raises RequestError.
    """
    try:
        scoring = ScoringOptions(device=device, dtype=dtype, **options)  # type: ignore[arg-type]
    except TypeError as error:
        raise RequestError(f"load_model: {error}") from error
    return ScoringModel(load_annotator(model, scoring), batch_tokens)


# Models by name -> the annotator that enhances captions with them


def load_assessor(
    model: str, enhancing: EnhanceOptions | None = None, options: ScoringOptions | None = None
) -> Annotator:
    """The annotator of an AITQE checkpoint or endpoint, and of the judge that the options name.

    Loads no weights. Raises RequestError where there is no such model or mmsieve can't enhance
    with it.
    """
    enhancing, options = enhancing or EnhanceOptions(), options or ScoringOptions()
    enhancer: Annotator
    if model.startswith(SCHEME):
        enhancer = AitqeEndpoint(parse_endpoint(model), enhancing, options)
    else:
        enhancer = load_aitqe(model, enhancing, options)
    if enhancing.accept_if_better is None:
        return enhancer
    # What is set for one model's inputs says nothing about another's
    own = ScoringOptions(
        device=options.device, dtype=options.dtype, image_limits=options.image_limits
    )
    return Judged(enhancer, load_annotator(enhancing.accept_if_better, own))


def load_aitqe(model: str, enhancing: EnhanceOptions, options: ScoringOptions) -> Aitqe:
    """The annotator of an AITQE checkpoint; raises RequestError as `load_assessor` does."""
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    return Aitqe(open_enhancer(find_enhancer(model)), enhancing, options, device, dtype)


def find_enhancer(name: str) -> Path:
    """The folder of an AITQE checkpoint; raises RequestError, in one line, where there is none."""
    bundled = ", ".join(bundled_names("enhance")) or "none yet"
    places = "a folder with config.json and *.safetensors, a Hugging Face id (owner/name)"
    endpoint = f"or {SCHEME}URL#NAME"
    return bundled_folder(name) or find_folder(
        name, f"a bundled model ({bundled}), {places}, {endpoint}"
    )


class EnhancingModel(AnnotatedModel):
    """An enhancer on its own: samples in, rows out, all in this process."""

    def enhance(self, samples: Iterable[Sample]) -> list[Row]:
        """A row per sample, in order: `key`, `status`, `error`, and the columns of the schema.

        A sample that can't be judged has its reason as status, and keeps its caption.
        """
        return self.annotate(samples)


def load_enhancer(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    scoring: ScoringOptions | None = None,
    **options: Any,
) -> EnhancingModel:
    """A model ready to enhance: `load_enhancer("folder").enhance([Sample.caption("a.jpg", "A")])`.

    `options` are those of EnhanceOptions; `scoring` says how images and texts are prepared.
    Raises RequestError.
    """
    try:
        enhancing = EnhanceOptions(**options)
    except TypeError as error:
        raise RequestError(f"load_enhancer: {error}") from error
    inputs = replace(scoring or ScoringOptions(), device=device, dtype=dtype)  # type: ignore[arg-type]
    return EnhancingModel(load_assessor(model, enhancing, inputs), batch_tokens)


# Models by name -> the annotator that rates with them


def load_raters(model: str, options: RatingOptions | None = None) -> MmSSR:
    """The annotator of a scorer, and of the styler that the options name. Loads no weights.

    Raises RequestError where there is no such model or mmsieve can't rate with it.
    """
    options = options or RatingOptions()
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    scorer = open_onevision(find_rater(model))
    if (scorer.own or {}).get("capabilities") == {}:
        raise RequestError(f"model {model!r} names styles only: give it as --styler")
    return MmSSR(scorer, _styler(scorer, options.styler), options, device, dtype)


def _styler(scorer: OneVision, name: str | None) -> OneVision | None:
    if name is None:
        return scorer if (scorer.own or {}).get("styles") else None
    folder = find_rater(name)
    styler = scorer if folder.samefile(scorer.folder) else open_onevision(folder)
    if styler.own is not None and not styler.own.get("styles"):
        raise RequestError(f"styler {name!r} was not trained to name styles")
    return styler


def find_rater(name: str) -> Path:
    """The folder of a scorer or styler; raises RequestError, in one line, where there is none."""
    bundled = ", ".join(bundled_names("rate")) or "none yet"
    places = "a folder with config.json and *.safetensors, or a Hugging Face id (owner/name)"
    return bundled_folder(name) or find_folder(name, f"a bundled model ({bundled}), {places}")


class RatingModel(AnnotatedModel):
    """A scorer and its styler on their own: samples in, rows out, all in this process."""

    def rate(self, samples: Iterable[Sample]) -> list[Row]:
        """A row per sample, in order: `key`, `status`, `error`, and the columns of the schema.

        A sample that can't be rated has its reason as status and None in the other columns.
        """
        return self.annotate(samples)


def load_rater(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    **options: Any,
) -> RatingModel:
    """A model ready to rate: `load_rater("folder").rate([Sample.instruction(images, turns)])`.

    `options` are those of RatingOptions. Raises RequestError.
    """
    try:
        rating = RatingOptions(device=device, dtype=dtype, **options)  # type: ignore[arg-type]
    except TypeError as error:
        raise RequestError(f"load_rater: {error}") from error
    return RatingModel(load_raters(model, rating), batch_tokens)
