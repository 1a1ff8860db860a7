"""Models by name -> the annotator that enhances captions with them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmsieve.annotator import Annotator, Row
from mmsieve.devices import resolve_device, resolve_dtype
from mmsieve.errors import RequestError
from mmsieve.methods.aitqe import Aitqe, EnhanceOptions
from mmsieve.methods.aitqe_endpoint import SCHEME, AitqeEndpoint, parse_endpoint
from mmsieve.methods.aitqe_judged import Judged
from mmsieve.methods.annotated import AnnotatedModel
from mmsieve.methods.load import check_options, find_folder, load_annotator
from mmsieve.methods.unifilter import ScoringOptions
from mmsieve.models.catalog import bundled_folder, bundled_names
from mmsieve.models.enhancer import open_enhancer
from mmsieve.sample import Sample


def load_assessor(
    model: str, enhancing: EnhanceOptions | None = None, options: ScoringOptions | None = None
) -> Annotator:
    """The annotator of an AITQE checkpoint or endpoint, and of the judge that the options name.

    Loads no weights. Raises RequestError where there is no such model or mmsieve can't enhance
    with it.
    """
    enhancing, options = enhancing or EnhanceOptions(), options or ScoringOptions()
    enhancing.check()
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
    check_options(options)
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
