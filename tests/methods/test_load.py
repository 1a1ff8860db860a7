"""One loader: a model by its name, for whichever verb it was trained for."""

import pytest

from mmsieve import RequestError, Sample, load_model
from tests.helpers.shards import image

PHOTO = image(1)
CAPTION = Sample.caption(PHOTO, "A red square.")


@pytest.mark.parametrize(
    ("model", "verb", "column"),
    [
        ("unifilter-tiny", "score", "quality_score"),
        ("rules", "score", "quality_score"),
        ("aitqe-tiny", "enhance", "final_caption"),
        ("mmssr-tiny-scorer", "rate", "ocr"),
    ],
)
def test_a_model_does_what_it_was_trained_for_and_nothing_else(model, verb, column):
    loaded = load_model(model, device="cpu")
    assert column in getattr(loaded, verb)([CAPTION])[0]
    for other in {"score", "enhance", "rate"} - {verb}:
        with pytest.raises(RequestError, match=f"can't {other}: call its method {verb}"):
            getattr(loaded, other)([CAPTION])


@pytest.mark.parametrize("model", ["unifilter-tiny", "aitqe-tiny", "mmssr-tiny-scorer"])
def test_an_option_that_a_model_does_not_have_is_named(model):
    with pytest.raises(RequestError, match="colour"):
        load_model(model, device="cpu", colour="red")
