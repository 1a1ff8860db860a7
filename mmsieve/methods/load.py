"""A MODEL's name -> its annotator, or the model for use on its own.

A bundled name, a folder or a Hugging Face id is what its config.json says; METHOD:MODEL says that
the model is another one, or is used otherwise; `rules` needs none. NAME and NAME:MODEL may also
be a plug-in that another package installs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from mmsieve.clients.endpoint import SCHEME, EndpointName
from mmsieve.engine.annotator import (
    Annotator,
    Row,
    RunnerOptions,
    annotate_samples,
    check,
    make_runner,
)
from mmsieve.errors import RequestError, SampleError, Status, nearest
from mmsieve.methods import folders
from mmsieve.methods.aitqe.annotator import Aitqe, EnhanceOptions, Judged
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.aitqe.endpoint import AitqeEndpoint
from mmsieve.methods.clip.annotator import Clip
from mmsieve.methods.clip.checkpoint import ClipFolder, open_clip
from mmsieve.methods.clip.open_clip import is_open_clip, open_open_clip
from mmsieve.methods.mlm_filter.annotator import NAME as MLM_FILTER
from mmsieve.methods.mlm_filter.annotator import USAGE, MlmFilter, MlmFilterOptions
from mmsieve.methods.mmssr.annotator import MmSSR, RatingOptions
from mmsieve.methods.mmssr.checkpoint import OneVision, open_onevision
from mmsieve.methods.mmssr.endpoint import MmSSREndpoint
from mmsieve.methods.plugins import Plugin, list_plugins
from mmsieve.methods.recognise import recognise
from mmsieve.methods.rules import Rules
from mmsieve.methods.unifilter.annotator import OneSided, ScoringOptions, UniFilter
from mmsieve.methods.unifilter.checkpoint import open_checkpoint
from mmsieve.sample import Kind, Sample
from mmsieve.stores.paths import is_stored, is_url, place_of

# Names -> folders

_PLACES = "a folder with config.json and *.safetensors, or a Hugging Face id (owner/name)"


def find_model(model: str, verb: str | None = "score") -> Path:
    """The folder of a bundled model (of one verb), a path or a hub id; raises RequestError."""
    scorers = [*(f"{method}:MODEL" for method in _SCORERS), _RULES, USAGE]
    scorers += [f"{plugin.name}:MODEL" for plugin in list_plugins() if not plugin.problem]
    served = f"; or {SCHEME}URL#NAME"
    others = {"score": f"; or {', '.join(scorers)}", "enhance": served, "rate": served}
    bundled = ", ".join(folders.bundled_names(verb)) or "none yet"
    allowed = f"a bundled model ({bundled}), {_PLACES}{others.get(verb or '', '')}"
    return folders.bundled_folder(model) or find_folder(model, allowed)


def find_folder(model: str, allowed: str = _PLACES) -> Path:
    """The folder of a path or a Hugging Face id; raises RequestError that says what is allowed."""
    folder = place_of(model).expanduser()
    if model and folder.is_dir():
        return folders.fetched(folder) if is_stored(folder) else folder
    if model and folder.exists():
        raise RequestError(f"model {model!r} is a file: give {allowed}")
    name = folders.known_id(model) or model
    if not folders.HUB_ID.fullmatch(name):
        raise RequestError(f"no model {model!r}{folders.near_name(model)}: give {allowed}")
    found = folders.hub_folder(name)
    if found is None:
        raise RequestError(
            f"no folder {name!r}, and no such model in the local Hugging Face cache or on the "
            f"hub as reached from here{folders.near_name(name) if name == model else ''}: "
            f"give {allowed}"
        )
    return found


# Names -> annotators; none loads weights


def load_annotator(
    model: str, options: ScoringOptions | None = None, mlm_filter: MlmFilterOptions | None = None
) -> Annotator:
    """The annotator of a model by its name, such as `clip:FOLDER`; raises RequestError."""
    options, mlm_filter = options or ScoringOptions(), mlm_filter or MlmFilterOptions()
    method, colon, name = ("", "", model) if is_url(model) else str(model).partition(":")
    if method == MLM_FILTER:
        return MlmFilter(name, mlm_filter, options)
    if str(model).startswith(SCHEME):
        raise RequestError(f"model {model!r}: a server is asked for scores by {USAGE}")
    if mlm_filter != MlmFilterOptions():
        names = (part.name for part in fields(mlm_filter))
        raise RequestError(f"--{', --'.join(names)}: are for a model on a server, {USAGE}")
    if method == _RULES:
        if colon:
            raise RequestError(f"model {model!r}: {_RULES} takes no model")
        return Rules(options)
    if plugin := _find_plugin(method):
        return plugin.annotator(name if colon else None, options)
    if not colon or method not in _SCORERS:
        return load_unifilter(str(model), options)
    if not name:
        raise RequestError(f"model {model!r}: name a model after the colon, a folder or an id")
    return _SCORERS[method](name, options)


def load_unifilter(model: str, options: ScoringOptions | None = None) -> UniFilter:
    """The annotator of a quality classifier; raises RequestError as `load_annotator` does."""
    return UniFilter(open_checkpoint(find_model(model)), options or ScoringOptions())


def kinds_of(model: str) -> tuple[Kind, ...]:
    """The kinds of samples that a model can score, by its name."""
    method = model.partition(":")[0]
    return ("caption",) if method == MLM_FILTER else ("caption", "document")


def _find_plugin(method: str) -> Plugin | None:
    """The plug-in of a name that is no method of mmsieve's own, no bundled model and no path."""
    if method in _SCORERS or folders.bundled_folder(method) is not None or "/" in method:
        return None
    return next((plugin for plugin in list_plugins() if plugin.name == method), None)


def _open_clip(folder: Path) -> ClipFolder:
    return open_open_clip(folder) if is_open_clip(folder) else open_clip(folder)


_RULES = "rules"
_SCORERS: dict[str, Callable[[str, ScoringOptions], Annotator]] = {
    "clip": lambda name, options: Clip(_open_clip(find_folder(name, _PLACES)), options),
    "text-only": lambda name, options: OneSided(load_unifilter(name, options), "text"),
    "image-only": lambda name, options: OneSided(load_unifilter(name, options), "image"),
}
"""METHOD of METHOD:MODEL -> its annotator."""


def load_assessor(
    model: str, enhancing: EnhanceOptions | None = None, options: ScoringOptions | None = None
) -> Annotator:
    """The annotator of an AITQE checkpoint or endpoint, and of its judge; raises RequestError."""
    enhancing, options = enhancing or EnhanceOptions(), options or ScoringOptions()
    enhancer: Annotator
    if model.startswith(SCHEME):
        like = enhancing.like and open_enhancer(find_model(enhancing.like, "enhance"))
        enhancer = AitqeEndpoint(model, enhancing, options, like or None)
    elif enhancing.like is not None:
        raise RequestError(f"--like {enhancing.like}: is for a model on a server, {SCHEME}URL#NAME")
    else:
        enhancer = load_aitqe(model, enhancing, options)
    if enhancing.accept_if_better is None:
        return enhancer
    # What is set for one model's inputs says nothing about another's
    limits = options.image_limits
    own = ScoringOptions(device=options.device, dtype=options.dtype, image_limits=limits)
    return Judged(enhancer, load_annotator(enhancing.accept_if_better, own))


def load_aitqe(model: str, enhancing: EnhanceOptions, options: ScoringOptions) -> Aitqe:
    """The annotator of an AITQE checkpoint; raises RequestError as `load_assessor` does."""
    return Aitqe(open_enhancer(find_model(model, "enhance")), enhancing, options)


def load_raters(model: str, options: RatingOptions | None = None) -> MmSSR:
    """The annotator of a scorer or its endpoint, and of the styler that the options name.

    Raises RequestError.
    """
    options = options or RatingOptions()
    is_served = model.startswith(SCHEME)
    for name, like in (("like", options.like), ("like-styler", options.like_styler)):
        if like is not None and not is_served:
            raise RequestError(f"--{name} {like}: is for a model on a server, {SCHEME}URL#NAME")
    if is_served:
        return _load_served_raters(model, options)
    if (options.styler or "").startswith(SCHEME):
        raise RequestError(f"--styler {options.styler}: is on a server, so --model must be too")
    scorer = _open_scorer(model)
    return MmSSR(scorer, _open_styler(scorer, options.styler), options)


def _load_served_raters(model: str, options: RatingOptions) -> MmSSREndpoint:
    if options.like is None:
        fix = "say which model that is: --like NAME, a folder or a Hugging Face id"
        raise RequestError(f"model {model!r}: prompts are made for a model: {fix}")
    scorer, names = _open_scorer(options.like), [EndpointName.parse(model)]
    named = options.styler
    if named is None or named == model:
        styler = _open_styler(scorer, None if named is None else options.like)
    elif not named.startswith(SCHEME):
        raise RequestError(f"--styler {named}: give {SCHEME}URL#NAME, as for --model")
    elif options.like_styler is None:
        raise RequestError(f"--styler {named}: say with --like-styler which model that is")
    else:
        styler = _open_styler(scorer, options.like_styler)
        if styler is scorer:
            raise RequestError(f"--styler {named}: is the scorer itself: give {model!r} or none")
        names.append(EndpointName.parse(named))
    return MmSSREndpoint(tuple(names), scorer, styler, options)


def _open_scorer(name: str) -> OneVision:
    scorer = open_onevision(find_model(name, "rate"))
    if (scorer.own or {}).get("capabilities") == {}:
        raise RequestError(f"model {name!r} names styles only: give it as --styler")
    return scorer


def _open_styler(scorer: OneVision, name: str | None) -> OneVision | None:
    if name is None:
        return scorer if (scorer.own or {}).get("styles") else None
    folder = find_model(name, "rate")
    styler = scorer if folder.samefile(scorer.folder) else open_onevision(folder)
    if styler.own is not None and not styler.own.get("styles"):
        raise RequestError(f"styler {name!r} was not trained to name styles")
    return styler


# A model on its own: samples in, rows out, all in this process

_VERBS = {"quality": "score", "assessment": "enhance", "ratings": "rate"}
"""What an annotator's table holds -> the verb that makes it."""


class LoadedModel:
    """A model with its weights loaded, for the one verb that it can do."""

    def __init__(self, annotator: Annotator, batch_tokens: int | None = None) -> None:
        options = RunnerOptions(annotator.device, batch_tokens)
        check(annotator, options)
        self.annotator = annotator
        self.preparer = annotator.preparer()
        self.runner = make_runner(annotator, options)

    def score(self, samples: Iterable[Sample | Mapping[str, Any]]) -> list[Row]:
        """A row per caption or document, in order, with its quality; see `annotate`."""
        return self._do("score", samples)

    def enhance(self, samples: Iterable[Sample | Mapping[str, Any]]) -> list[Row]:
        """A row per caption pair, in order, with its scores and the caption to use; see `annotate`.

        A sample that can't be judged keeps its caption.
        """
        return self._do("enhance", samples)

    def rate(self, samples: Iterable[Sample | Mapping[str, Any]]) -> list[Row]:
        """A row per instruction sample, in order, with its ratings and styles; see `annotate`."""
        return self._do("rate", samples)

    def _do(self, verb: str, samples: Iterable[Sample | Mapping[str, Any]]) -> list[Row]:
        able = _VERBS[self.annotator.kind]
        if verb != able:
            raise RequestError(f"this model can't {verb}: call its method {able}")
        return self.annotate(samples)

    def annotate(self, samples: Iterable[Sample | Mapping[str, Any]]) -> list[Row]:
        """A row per sample, in order: `key`, `status`, `error`, and the columns of the schema.

        A sample may be a dict (`Sample.of`). One that can't be used has its reason as status, and
        None in the other columns but for what is known of it all the same.
        """
        made = [Sample.of(sample) for sample in samples]
        rows: list[Row] = []
        found = annotate_samples(self.preparer, self.runner, made)
        for sample, row in zip(made, found, strict=True):
            rows.append({"key": sample.key, "status": str(Status.OK), "error": None})
            rows[-1] |= dict.fromkeys(self.annotator.schema.names)
            if isinstance(row, SampleError):
                row = {**row.known, "status": str(row.status), "error": str(row)}
            rows[-1] |= row
        return rows


def load_model(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    **options: Any,
) -> LoadedModel:
    """A model ready for use: `load_model("folder").score([Sample.caption("a.jpg", "A dog.")])`.

    What it can do, `score`, `enhance` or `rate`, is what the model was trained for. `options` are
    those of ScoringOptions (and `mlm_filter`, MlmFilterOptions), `load_enhancer` or `load_rater`.
    Raises RequestError.
    """
    verb = _find_verb(str(model))
    if verb == "enhance":
        return load_enhancer(model, device, dtype, batch_tokens, **options)
    if verb == "rate":
        return load_rater(model, device, dtype, batch_tokens, **options)
    mlm_filter = options.pop("mlm_filter", None)
    scoring = _make("load_model", ScoringOptions, device=device, dtype=dtype, **options)
    return LoadedModel(load_annotator(model, scoring, mlm_filter), batch_tokens)


def _find_verb(model: str) -> str:
    """What a model was trained for, by its name or else its config."""
    method, colon, _ = model.partition(":")
    if model.startswith(SCHEME):
        return "enhance"
    if (
        method in (_RULES, MLM_FILTER)
        or (colon and method in _SCORERS)
        or _find_plugin(method) is not None
    ):
        return "score"
    return recognise(find_model(model)).verb


def load_enhancer(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    scoring: ScoringOptions | None = None,
    **options: Any,
) -> LoadedModel:
    """A model ready to enhance: `load_enhancer("folder").enhance([Sample.caption("a.jpg", "A")])`.

    `options` are those of EnhanceOptions; `scoring` is how inputs are made. Raises RequestError.
    """
    enhancing = _make("load_enhancer", EnhanceOptions, **options)
    inputs = replace(scoring or ScoringOptions(), device=device, dtype=dtype)  # type: ignore[arg-type]
    return LoadedModel(load_assessor(model, enhancing, inputs), batch_tokens)


def load_rater(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int | None = None,
    **options: Any,
) -> LoadedModel:
    """A model ready to rate: `load_rater("folder").rate([Sample.instruction(images, turns)])`.

    `options` are those of RatingOptions. Raises RequestError.
    """
    rating = _make("load_rater", RatingOptions, device=device, dtype=dtype, **options)
    return LoadedModel(load_raters(model, rating), batch_tokens)


Options = TypeVar("Options")


def _make(function: str, kind: type[Options], **options: Any) -> Options:
    """Options of a kind; raises RequestError for a name that it doesn't have."""
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            meant = nearest(name, known)
            fix = f"did you mean {meant}?" if meant else f"there are {', '.join(known)}"
            raise RequestError(f"{function}: no option {name}; {fix}")
    return kind(**options)
