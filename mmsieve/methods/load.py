"""Models by name -> the annotator that scores with it.

A bundled name, a folder or a Hugging Face id is a quality classifier; METHOD:MODEL says that the
model is another one, or is used otherwise; `rules` needs none.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmsieve.annotator import QualityAnnotator, Row
from mmsieve.devices import resolve_device, resolve_dtype
from mmsieve.errors import RequestError
from mmsieve.methods.annotated import AnnotatedModel
from mmsieve.methods.clip import Clip
from mmsieve.methods.one_sided import OneSided
from mmsieve.methods.rules import Rules
from mmsieve.methods.unifilter import ScoringOptions, UniFilter
from mmsieve.models.catalog import bundled_folder, bundled_names
from mmsieve.models.clip import open_clip
from mmsieve.models.files import HUB_ID, hub_folder
from mmsieve.models.released import open_checkpoint
from mmsieve.sample import Sample


def load_annotator(model: str, options: ScoringOptions | None = None) -> QualityAnnotator:
    """The annotator of a model by its name, such as `clip:folder`. Loads no weights.

    Raises RequestError where there is no such model or mmsieve can't score with it.
    """
    options = options or ScoringOptions()
    method, colon, name = str(model).partition(":")
    if method == _RULES:
        if colon:
            raise RequestError(f"model {model!r}: {_RULES} takes no model")
        check_options(options)
        return Rules(options)
    if not colon or method not in _METHODS:
        return load_unifilter(model, options)
    check_options(options)
    if not name:
        raise RequestError(f"model {model!r}: name a model after the colon, a folder or an id")
    return _METHODS[method](name, options)


def load_unifilter(model: str, options: ScoringOptions | None = None) -> UniFilter:
    """The annotator of a quality classifier; raises RequestError as `load_annotator` does."""
    options = options or ScoringOptions()
    check_options(options)
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


def check_options(options: ScoringOptions) -> None:
    """Raise RequestError for values of options that can't be meant."""
    if options.image_fit not in (None, "stretch", "pad"):
        raise RequestError(f"image fit {options.image_fit!r} is not one of stretch, pad")
    if options.max_text_tokens is not None and options.max_text_tokens < 1:
        raise RequestError(f"max text tokens {options.max_text_tokens}: at least 1 is needed")


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
