"""A real vLLM gives the torch runner's answers: over HTTP, and in the process."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mmsieve import RequestError, Sample, Turn, convert, load_enhancer, load_model, load_rater
from mmsieve.engine.annotator import RunnerOptions
from mmsieve.labels import CAPABILITIES
from mmsieve.methods.load import load_raters
from mmsieve.methods.mlm_filter.inputs import METRICS
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.methods.mmssr.rows import DIGITS
from mmsieve.methods.mmssr.runner import LoadedRater
from tests.serving import samples
from tests.serving.engine import serving

pytestmark = pytest.mark.serving

ENHANCER, SCORER, STYLER = "aitqe-tiny", "mmssr-tiny-scorer", "mmssr-tiny-styler"
MODELS = (ENHANCER, SCORER, STYLER)
needs_reference = pytest.mark.skipif(
    not samples.REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of real captions"
)
CAPTIONS = [
    pytest.param(samples.invented, id="invented"),
    pytest.param(samples.real, id="real", marks=needs_reference),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Any]:
    """The bundled models as `convert` writes them."""
    out = tmp_path_factory.mktemp("stock")
    for model in MODELS:
        convert(model, out=out / model)
    return {model: out / model for model in MODELS}


@pytest.fixture(scope="module")
def endpoints(folders) -> Iterator[dict[str, str]]:
    with serving({model: folders[model] for model in (SCORER, STYLER)}) as found:
        yield found


@pytest.fixture(scope="module")
def enhancer(folders) -> Iterator[str]:
    with serving({ENHANCER: folders[ENHANCER]}) as found:
        yield found[ENHANCER]


@pytest.fixture(scope="module")
def rated() -> list[dict[str, Any]]:
    """The torch runner's rows of 100 samples."""
    rater = load_rater(SCORER, device="cpu", styler=STYLER, expected=True)
    return rater.rate(samples.conversations(100))


@pytest.fixture(scope="module")
def enhanced() -> list[dict[str, Any]]:
    """The torch runner's rows of 400 captions."""
    return load_enhancer(ENHANCER, device="cpu").enhance(samples.pairs(400))


def assert_same_ratings(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert {row["status"] for row in found} == {"ok"}
    for name in (*CAPABILITIES, "styles", "image_source", "num_images", "num_tokens"):
        assert [row[name] for row in found] == [row[name] for row in wanted]
    means = [f"{name}_expected" for name in CAPABILITIES]
    each = [np.array([[row[name] for name in means] for row in rows]) for rows in (found, wanted)]
    assert np.abs(each[0] - each[1]).max() < 1e-4


def options(endpoints: dict[str, str]) -> dict[str, Any]:
    styler = {"styler": endpoints[STYLER], "like_styler": STYLER}
    return {"device": "cpu", "like": SCORER, **styler}


# Over HTTP


def test_the_server_gives_all_ratings_and_styles(endpoints, rated):
    rater = load_rater(endpoints[SCORER], expected=True, **options(endpoints))
    assert_same_ratings(rater.rate(samples.conversations(100)), rated)


def test_the_digits_probabilities_are_those_of_torch(endpoints):
    """On 30 samples: the six digits, to 1e-4, at each question."""
    asked = RatingOptions(expected=True, **options(endpoints))
    annotator = load_raters(endpoints[SCORER], asked)
    items = [annotator.preparer().prepare(sample) for sample in samples.conversations(30)]
    found = np.zeros((30, len(CAPABILITIES), len(DIGITS)))
    requests = annotator.requests(RunnerOptions())
    for (index, _, number), answer in requests.ask(0, enumerate(items)):
        found[index, number] = softmax([answer["top"][digit] for digit in DIGITS])
    assert np.abs(found - local_probabilities(30)).max() < 1e-4


def test_mlm_filters_questions_have_scores_for_answers(endpoints):
    """A rater answers any question about a caption with a digit."""
    model = load_model(f"mlm-filter:{endpoints[SCORER]}", device="cpu")
    rows = model.score(samples.pairs(20))
    check_all_ok(rows, 20)
    assert {row[f"{name}_score"] for row in rows for name in METRICS} <= set(range(6))


def softmax(logprobs: list[float]) -> npt.NDArray[np.float64]:
    odds = np.exp(np.array(logprobs) - max(logprobs))
    return odds / odds.sum()


def local_probabilities(count: int) -> npt.NDArray[np.float64]:
    annotator = load_raters(SCORER, RatingOptions(device="cpu"))
    items = [annotator.preparer().prepare(one) for one in samples.conversations(count)]
    model = LoadedRater(annotator.scorer, "float32", torch.device("cpu"))
    prompts = [item.prompts[0] for item in items]
    with torch.inference_mode():
        prefilled = model.prefill(prompts, [item.images for item in items])
        logits = model.logits(prefilled, [prompt.ends for prompt in prompts])
    tokenizer = annotator.preparer().writers[0].tokenizer.build()
    digits = [tokenizer.token_to_id(digit) for digit in DIGITS]
    found = logits[:, digits].double().softmax(1).numpy()
    return found.reshape(count, len(CAPABILITIES), len(DIGITS))


def test_the_server_reads_the_published_ids(endpoints):
    """Its own tokenizer and template, on the messages that it is sent."""
    annotator = load_raters(endpoints[SCORER], RatingOptions(**options(endpoints)))
    preparer, requests = annotator.preparer(), annotator.requests(RunnerOptions())
    for sample in samples.conversations(20):
        item = preparer.prepare(sample)
        for model, name in enumerate((SCORER, STYLER)):
            prompt = item.item.prompts[model]
            for question, end in zip(requests.questions[model], prompt.ends, strict=True):
                messages = item.body(model, question)["messages"]
                served, patches = preparer.served[model], annotator.models[model].tower.patches
                ids = served.spread([*prompt.shared.tolist(), *end])
                image = served.marks[0]
                wanted = [one for i in ids for one in [i] * (patches if i == image else 1)]
                assert tokenize(endpoints[name], name, messages) == wanted


def tokenize(endpoint: str, model: str, messages: list[Any]) -> list[int]:
    url = endpoint.removeprefix("endpoint:").partition("/v1#")[0]
    body = json.dumps({"model": model, "messages": messages}).encode()
    request = urllib.request.Request(f"{url}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answered:
        found: list[int] = json.load(answered)["tokens"]
    return found


def test_the_server_gives_the_same_rewrites(enhancer, enhanced):
    model = load_enhancer(enhancer, device="cpu", like=ENHANCER)
    assert model.enhance(samples.pairs(400)) == enhanced


@pytest.mark.parametrize("captions", CAPTIONS)
def test_the_server_answers_about_any_caption_in_the_form(enhancer, captions):
    model = load_enhancer(enhancer, device="cpu", like=ENHANCER)
    check_all_ok(model.enhance(captions(500)), 500)


def check_all_ok(rows: list[dict[str, Any]], count: int) -> None:
    assert [row["status"] for row in rows] == ["ok"] * count


# In the process


def test_vllm_in_the_process_gives_all_ratings_and_styles(folders, rated):
    stocks = {"stock": str(folders[SCORER]), "stock_styler": str(folders[STYLER])}
    rater = load_rater(SCORER, device="cpu", styler=STYLER, expected=True, backend="vllm", **stocks)
    assert rater.annotator.fingerprint["backend"].startswith("vllm 0.")
    assert_same_ratings(rater.rate(samples.conversations(100)), rated)


@pytest.fixture(scope="module")
def in_process() -> Any:
    return load_enhancer(ENHANCER, device="cpu", backend="vllm")


def test_vllm_in_the_process_gives_the_same_rewrites(in_process, enhanced):
    assert in_process.enhance(samples.pairs(400)) == enhanced


@pytest.mark.parametrize("captions", CAPTIONS)
def test_vllm_in_the_process_answers_about_any_caption_in_the_form(in_process, captions):
    check_all_ok(in_process.enhance(captions(500)), 500)


def test_another_models_folder_is_refused(folders):
    with pytest.raises(RequestError, match="was converted from another model"):
        load_rater(SCORER, device="cpu", backend="vllm", stock=str(folders[STYLER]))


def test_a_sample_that_fills_the_context_is_a_row(folders):
    """Not an error of the whole window: the answer needs room too."""
    turns = samples.conversations(1)[0].turns
    plain = [Turn(turn.role, turn.text.replace("<image>\n", "")) for turn in turns]
    rater = load_rater(SCORER, device="cpu", backend="vllm", stock=str(folders[SCORER]))
    asked = [Sample.instruction([], plain * times) for times in range(1, 200, 2)]
    statuses = [row["status"] for row in rater.rate(asked)]
    assert set(statuses) == {"ok", "text_too_long"} and statuses == sorted(statuses)
