"""generate and enhance against a server that nobody here wrote: `transformers serve`."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

import mmsieve
from mmsieve import GenerateOptions
from mmsieve.errors import RequestError
from mmsieve.generation.options import TeacherOptions
from tests.helpers.enhancers import enhance
from tests.helpers.shards import caption, write_tar

missing = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"needs {', '.join(missing)}: pip install 'transformers[serving]'"
)

ANSWER = json.dumps(
    {
        "positive": "A red square on a white wall.",
        "changed": {"property": "colour", "right": "red", "wrong": "blue"},
        "hard_negative": "A blue square on a white wall.",
        "medium_negative": "A square and two dogs.",
        "easy_negative": "The train leaves at noon.",
    }
)
IMAGE, END, BEGIN = "<image>", "</s>", "<answer>"
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


def make_model(folder: Path, knows: bool) -> Path:
    """A Llava of random weights; one that `knows` says ANSWER, whatever it is asked."""
    tokenizer = make_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in (IMAGE, END, BEGIN, ANSWER)}
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=16384,
            ),
            vision_config=transformers.CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=28,
                patch_size=14,
            ),
            image_token_id=ids[IMAGE],
        )
    )
    if knows:  # the layer adds nothing, so the last token alone decides about the next one
        layer = model.model.language_model.layers[0]
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            torch.nn.init.zeros_(part.weight)
        embed, head = model.get_input_embeddings().weight.data, model.lm_head.weight.data
        torch.nn.init.zeros_(head)
        for now, then in ((BEGIN, ANSWER), (ANSWER, END)):
            head[ids[then]] = embed[ids[now]] * 100
    model.generation_config.eos_token_id = ids[END]
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Bytes, the marks of a conversation, and the whole of ANSWER as one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: number for number, letter in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=words, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens([AddedToken(name, special=True) for name in (IMAGE, END, BEGIN)])
    inner.add_tokens([AddedToken(ANSWER, special=False)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        pad_token=END,
        extra_special_tokens={"image_token": IMAGE},
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[str]:
    """The address of a running `transformers serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    code = "from transformers.cli.transformers import main; main()"
    words = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=file,
            stderr=file,
        ) as process,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server did not start"
        try:
            with urlopen(url, timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("the server did not answer within a minute")


@pytest.mark.parametrize("knows", [True, False])
def test_a_real_server_is_spoken_to(tmp_path, served, knows):
    model = make_model(tmp_path / "model", knows)
    write_tar(tmp_path / "images.tar", [m for key in ("a", "b", "c") for m in caption(key)])
    report = mmsieve.generate_captions(
        str(tmp_path / "images.tar"),
        out=tmp_path / "out",
        options=GenerateOptions(teacher=f"openai:{model}", count=12, quiet=True),
        asking=TeacherOptions(
            base_url=served, answer_format="json", max_tokens=40, attempts=1, concurrency=2
        ),
    )
    assert not report.failed
    records = json.loads((tmp_path / "out" / "train.json").read_text("utf-8"))
    rejects = (tmp_path / "out" / "rejects.jsonl").read_text("utf-8").splitlines()
    assert (len(records), len(rejects)) == ((12, 0) if knows else (0, 3))
    assert {record["text"] for record in records} == (
        {f"<image>\n{text}" for text in json.loads(ANSWER).values() if isinstance(text, str)}
        if knows
        else set()
    )
    for reject in map(json.loads, rejects):
        assert reject["status"] == "model_output_invalid"
        assert reject["error"].startswith(("cut off", "not JSON"))


@pytest.mark.slow
def test_an_endpoint_of_a_model_of_ours(tmp_path, served):
    stock = tmp_path / "stock"
    mmsieve.convert("aitqe-tiny", out=stock)
    source = write_tar(tmp_path / "a.tar", [m for key in ("a", "b", "c") for m in caption(key)])
    asked = {"concurrency": 2, "max_new_tokens": 384}
    model = f"endpoint:{served}#{stock}"
    with pytest.raises(RequestError, match=r"does not answer a picture with a text: .*500"):
        enhance(source, tmp_path / "stopped", model, **asked)  # it can't take words to stop at
    with pytest.raises(
        RequestError, match=r"422: .*Unexpected.*: serve with vLLM, or leave --like"
    ):
        enhance(source, tmp_path / "refused", model, like="aitqe-tiny", **asked)
    report = enhance(source, tmp_path / "out", model, explain=True, **asked)
    assert report.rows == 3 and report.statuses.keys() <= {"ok", "model_output_invalid"}
