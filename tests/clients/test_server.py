"""The server that stands in for the teachers: the real SDKs take it for the real thing."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import anthropic
import openai
import pytest

from tests.helpers.shards import image
from tests.helpers.teacher_protocols import Ask
from tests.helpers.teacher_server import UNPAID, Fault, Plan, TeacherServer

SCHEMA = {
    "type": "object",
    "properties": {"good": {"type": "string"}, "bad": {"type": "string"}},
    "required": ["good", "bad"],
    "additionalProperties": False,
}
KEY = "sk-not-a-real-key"
PROVIDERS = ("anthropic", "openai")


def answer(ask: Ask) -> dict[str, Any]:
    return {"good": f"Seen {ask.key[:6]}: {len(ask.images)} images.", "bad": "Nothing."}


def picture(seed: int) -> str:
    return base64.b64encode(image(seed, "PNG")).decode()


@pytest.fixture
def client() -> Iterator[Any]:
    """Makes an SDK's client of a server, and closes it after the test."""
    with ExitStack() as stack:

        def make(server: TeacherServer, provider: str, retries: int = 0, timeout: float = 5) -> Any:
            options: dict[str, Any] = {"api_key": KEY, "max_retries": retries, "timeout": timeout}
            if provider == "anthropic":
                made: Any = anthropic.Anthropic(base_url=server.url, **options)
            else:
                made = openai.OpenAI(base_url=f"{server.url}/v1", **options)
            return stack.enter_context(made)

        yield make


def body(provider: str, seed: int, tool: bool = False) -> dict[str, Any]:
    asked = {"model": "m", "max_tokens": 100}
    if provider == "anthropic":
        source = {"type": "base64", "media_type": "image/png", "data": picture(seed)}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "Write."}]
        form: dict[str, Any] = {
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}
        }
        if tool:
            form = {"tools": [{"name": "write", "input_schema": SCHEMA}]}
            form["tool_choice"] = {"type": "tool", "name": "write"}
    else:
        url = {"url": f"data:image/png;base64,{picture(seed)}"}
        content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "Write."}]
        schema = {"name": "texts", "schema": SCHEMA, "strict": True}
        form = {"response_format": {"type": "json_schema", "json_schema": schema}}
        if tool:
            function = {"name": "write", "parameters": SCHEMA}
            form = {"tools": [{"type": "function", "function": function}]}
            form["tool_choice"] = {"type": "function", "function": {"name": "write"}}
    return asked | {"messages": [{"role": "user", "content": content}]} | form


def ask(sdk: Any, provider: str, seed: int, tool: bool = False) -> tuple[str | None, str]:
    """What the model said (None: it refused) and why it ended."""
    if provider == "anthropic":
        message = sdk.messages.create(**body(provider, seed, tool))
        block = message.content[0]
        text = json.dumps(block.input) if block.type == "tool_use" else block.text
        return (None if message.stop_reason == "refusal" else text), message.stop_reason
    choice = sdk.chat.completions.create(**body(provider, seed, tool)).choices[0]
    calls = choice.message.tool_calls
    return (calls[0].function.arguments if calls else choice.message.content), choice.finish_reason


@pytest.fixture(params=PROVIDERS)
def provider(request) -> str:
    return request.param


@pytest.mark.parametrize("tool", [False, True])
def test_a_good_answer_is_parsed_and_paid_once(client, provider, tool):
    with TeacherServer(answer) as server:
        text, _ = ask(client(server, provider), provider, 3, tool)
        assert json.loads(text)["good"].endswith("1 images.")
        assert server.paid.total() == server.answers == 1
        sent = server.headers[0]
        assert KEY in sent.get("x-api-key", "") + sent.get("authorization", "")


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_is_what_the_sdk_knows_it_as(client, provider, fault):
    sdk_of = {"anthropic": anthropic, "openai": openai}[provider]
    raised = {
        Fault.BAD_REQUEST: sdk_of.BadRequestError,
        Fault.UNKNOWN: sdk_of.NotFoundError,
        Fault.RATE_LIMIT: sdk_of.RateLimitError,
        Fault.SERVER_ERROR: sdk_of.InternalServerError,
        Fault.UNAVAILABLE: sdk_of.InternalServerError,
        Fault.OVERLOADED: sdk_of.InternalServerError,
        Fault.STALL: sdk_of.APITimeoutError,
        Fault.CUT: sdk_of.APIConnectionError,
    }
    with TeacherServer(answer, Plan(stubborn={fault: 1.0})) as server:
        sdk = client(server, provider, timeout=0.3)
        if fault in raised:
            with pytest.raises(raised[fault]):
                ask(sdk, provider, 1)
        else:
            text, end = ask(sdk, provider, 1)
            assert (text is None) == (fault is Fault.REFUSAL)
            assert (end in ("max_tokens", "length")) == (fault is Fault.TRUNCATED)
            if fault is Fault.TRUNCATED:
                with pytest.raises(json.JSONDecodeError):
                    json.loads(text)
            elif fault is Fault.WRONG_FIELDS:
                assert set(json.loads(text)) == {"not_good", "not_bad"}
            elif fault is Fault.DUPLICATES:
                assert len(set(json.loads(text).values())) == 1
        assert server.paid.total() == (fault is Fault.TWICE)
        assert server.wasted.total() == (fault not in (*UNPAID, Fault.TWICE))


def test_the_sdk_s_own_retries_get_through(client, provider):
    plan = Plan(seed=4, faults=dict.fromkeys(STATUS_FAULTS, 0.25))
    with TeacherServer(answer, plan) as server:
        sdk = client(server, provider, retries=20)
        for seed in range(20):
            ask(sdk, provider, seed)
        assert server.paid.total() == 20
        assert server.asked.total() > 20
        assert set(server.met) == set(STATUS_FAULTS)


STATUS_FAULTS = (Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.OVERLOADED)


def test_many_at_once_over_kept_connections(client, provider):
    with TeacherServer(answer, Plan(latency=0.005)) as server, ThreadPoolExecutor(16) as pool:
        sdk = client(server, provider)
        started = time.monotonic()
        said = list(pool.map(lambda seed: ask(sdk, provider, seed)[0], range(200)))
        seconds = time.monotonic() - started
        assert len({json.loads(text)["good"] for text in said}) == len(server.paid)
        assert server.paid.total() == 200
        assert server.connections <= 16
        assert 1 < server.most_busy <= 16
    assert seconds < 10


def test_what_goes_wrong_does_not_depend_on_the_order():
    plan = Plan(seed=1, faults={Fault.CUT: 0.3}, stubborn={Fault.REFUSAL: 0.2})
    keys = [f"image {n}" for n in range(500)]
    drawn = {key: [plan.fault(key, n) for n in range(5)] for key in keys}
    assert drawn == {key: [plan.fault(key, n) for n in range(5)] for key in reversed(keys)}
    stubborn = [faults for faults in drawn.values() if faults == [Fault.REFUSAL] * 5]
    assert 70 < len(stubborn) < 130
    assert 450 < sum(faults.count(Fault.CUT) for faults in drawn.values()) < 750


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"messages": None}, "messages"),
        ({"schema": {"additionalProperties": True}}, "additionalProperties"),
        ({"media": "image/jpeg"}, "image/jpeg"),
    ],
)
def test_what_the_real_servers_refuse_is_refused(client, provider, change, said):
    wanted = body(provider, 1)
    if "messages" in change:
        del wanted["messages"]
    text = json.dumps(wanted)
    if "schema" in change:
        text = text.replace('"additionalProperties": false', '"additionalProperties": true')
    if "media" in change:
        text = text.replace("image/png", change["media"])
    with TeacherServer(answer) as server:
        sdk = client(server, provider)
        path = "/v1/messages" if provider == "anthropic" else "/chat/completions"
        errors = anthropic.BadRequestError, openai.BadRequestError
        with pytest.raises(errors, match=said):
            sdk.post(path, body=json.loads(text), cast_to=object)
        assert not server.answers
        assert len(server.refused) == 1


def test_anthropic_batches(client):
    plan = Plan(seed=2, faults={Fault.SERVER_ERROR: 0.2, Fault.TRUNCATED: 0.2})
    with TeacherServer(answer, plan) as server:
        batches = client(server, "anthropic").messages.batches
        requests = [{"custom_id": f"r{n}", "params": body("anthropic", n)} for n in range(40)]
        made = batches.create(requests=requests)
        assert batches.retrieve(made.id).processing_status == "in_progress"
        ended = batches.retrieve(made.id)
        results = list(batches.results(made.id))
        kinds = [result.result.type for result in results]
        assert ended.processing_status == "ended"
        assert ended.request_counts.succeeded == kinds.count("succeeded") == server.answers
        assert ended.request_counts.errored == kinds.count("errored") > 0
        assert {result.custom_id for result in results} == {f"r{n}" for n in range(40)}
        stops = {r.result.message.stop_reason for r in results if r.result.type == "succeeded"}
        assert stops == {"end_turn", "max_tokens"}
        assert [batch.id for batch in batches.list()] == [made.id]


def test_openai_batches(client):
    plan = Plan(seed=2, faults={Fault.SERVER_ERROR: 0.2, Fault.TRUNCATED: 0.2})
    with TeacherServer(answer, plan) as server:
        sdk = client(server, "openai")
        lines = [
            {"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions"}
            | {"body": body("openai", n)}
            for n in range(40)
        ]
        data = "\n".join(json.dumps(line) for line in lines).encode()
        file = sdk.files.create(file=("requests.jsonl", data), purpose="batch")
        assert file.bytes == len(data)
        made = sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert sdk.batches.retrieve(made.id).status == "in_progress"
        done = sdk.batches.retrieve(made.id)
        assert done.status == "completed"
        good, bad = (
            [json.loads(line) for line in sdk.files.content(name).text.splitlines()]
            for name in (done.output_file_id, done.error_file_id)
        )
        assert len(good) == done.request_counts.completed == server.answers
        assert len(bad) == done.request_counts.failed > 0
        assert {line["custom_id"] for line in good + bad} == {f"r{n}" for n in range(40)}
        assert [batch.id for batch in sdk.batches.list()] == [made.id]
