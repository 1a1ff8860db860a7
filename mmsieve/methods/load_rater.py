"""Models by name -> the annotator that rates with them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmsieve.annotator import Row
from mmsieve.devices import resolve_device, resolve_dtype
from mmsieve.errors import RequestError
from mmsieve.methods.annotated import AnnotatedModel
from mmsieve.methods.load import find_folder
from mmsieve.methods.mmssr import MmSSR, RatingOptions
from mmsieve.models.catalog import bundled_folder, bundled_names
from mmsieve.models.onevision import OneVision, open_onevision
from mmsieve.sample import Sample


def load_raters(model: str, options: RatingOptions | None = None) -> MmSSR:
    """The annotator of a scorer, and of the styler that the options name. Loads no weights.

    Raises RequestError where there is no such model or mmsieve can't rate with it.
    """
    options = options or RatingOptions()
    if options.max_tokens is not None and options.max_tokens < 1:
        raise RequestError(f"max tokens {options.max_tokens}: at least 1 is needed")
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
