"""A look at the servers of an endpoint before anything is read: do they take a picture.

What is found here is a wrong request: it names the address and says what the server said.
"""

import io
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict

from mmsieve.clients.connection import NoAnswerError
from mmsieve.clients.endpoint import KEY_VARIABLE, SCHEME, Endpoint
from mmsieve.clients.servers import Servers, pause
from mmsieve.clients.threads import run_to_end
from mmsieve.errors import RequestError
from mmsieve.patience import Patience
from mmsieve.sanitize import redact, write

T = TypeVar("T")

PROBE = "A red square, to see whether pictures are taken."
"""The text of the request that is sent before all others."""
_OF_VLLM = ("structured_outputs", "repetition_penalty", "include_stop_str_in_output")
"""What OpenAI's protocol hasn't: a server that doesn't know it may refuse the request."""
_TRIES = 3
_PATH = "/v1"


class _ServedModel(BaseModel):
    id: str
    max_model_len: int | None = None


class _ServedModels(BaseModel):
    """What is read of the list of models."""

    data: list[_ServedModel]


class _ProbeUsage(BaseModel):
    prompt_tokens: int = 0


class _ProbeAnswer(BaseModel):
    """What is read of the answer to the probe."""

    model_config = ConfigDict(strict=False)

    choices: list[dict[str, Any]]
    usage: _ProbeUsage | None = None


def probe_picture() -> bytes:
    """The picture of that request, a file."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def check_endpoint(endpoint: Endpoint) -> None:
    """Raise RequestError unless servers are there, have the model, and answer the probe.

    A server that says that it isn't ready (503) is waited for. Of several, those that can't be
    reached are only named, as long as one is there.
    """
    run_to_end(_check_all(endpoint))


async def _check_all(endpoint: Endpoint) -> None:
    dead: dict[str, NoAnswerError] = {}
    for url in endpoint.name.urls:
        servers = endpoint.open([url])
        try:
            await _Check(endpoint, servers, url).run()
        except NoAnswerError as error:
            dead[url] = error
        finally:
            await servers.close()
    for url, why in dead.items():
        if len(dead) == len(endpoint.name.urls):
            raise RequestError(
                f"endpoint {url}: can't be reached: {why}: start the server, or mend the address"
            )
        left = "the others are asked, and it is tried again now and then"
        write(f"{url} does not answer ({why}): {left}", sys.stderr)


class _Check:
    """The check of one server; raises NoAnswerError where it can't be reached."""

    def __init__(self, endpoint: Endpoint, servers: Servers, url: str) -> None:
        self._endpoint, self._servers, self._url = endpoint, servers, url

    async def run(self) -> None:
        served = await self._list_models(self._servers)
        try:
            answer = await self._patiently(self._probe)
        except NoAnswerError as error:
            if error.trouble == "down":
                raise
            raise RequestError(
                f"endpoint {self._url}: {await self._explain(error, served)}"
            ) from None
        self._check_length(answer, served or {})

    async def _list_models(self, servers: Servers) -> dict[str, _ServedModel] | None:
        """The models that the server lists by their names; None where it has no such list."""

        async def ask() -> _ServedModels:
            return await servers.send(
                lambda client: client.models.with_raw_response.list(),
                _ServedModels.model_validate_json,
                once=True,
            )

        try:
            found = await self._patiently(ask)
        except NoAnswerError as error:
            if error.trouble == "down":
                raise
            if error.status in (401, 403):
                raise RequestError(f"endpoint {self._url}: {self._about_key(error)}") from None
            return None
        return {model.id: model for model in found.data}

    async def _probe(self) -> _ProbeAnswer:
        endpoint = self._endpoint
        return await endpoint.post(
            self._servers, endpoint.probe, _ProbeAnswer.model_validate, once=True
        )

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What is answered, once the server is ready; raises NoAnswerError."""
        patience = Patience(self._endpoint.patience, self._servers.clock.now)
        tries = 0
        while True:
            try:
                return await ask()
            except NoAnswerError as error:
                tries += 1
                is_failed = error.trouble == "failed"
                is_waiting = error.trouble in ("busy", "down") and error.status is not None
                if not is_waiting and not (is_failed and tries < _TRIES):
                    raise
                said = f"{redact(self._url)} to answer ({error})"
                patience.check(lambda said=said: said)  # type: ignore[misc]
                await self._servers.clock.sleep(error.wait or pause(tries))

    async def _explain(self, error: NoAnswerError, served: dict[str, _ServedModel] | None) -> str:
        """What is wrong where the probe isn't answered, and what to do."""
        name = self._endpoint.name.model
        if error.status in (401, 403):
            return self._about_key(error)
        if served and name not in served and error.trouble != "failed":
            return f"serves {', '.join(served)}, not {name}: {error}"
        if served is None and error.status in (404, 405) and await self._has_models_below():
            return f"is not where the API is: write {SCHEME}{self._url}{_PATH}#{name}: {error}"
        if error.trouble == "failed":
            return f"does not answer a picture with a text: {error}"
        unknown = [name for name in _OF_VLLM if name in self._endpoint.probe and name in str(error)]
        fix = f": --like sends {', '.join(unknown)}: serve with vLLM, or leave --like out"
        return f"refuses a picture with a text: {error}{fix if unknown else ''}"

    def _about_key(self, error: NoAnswerError) -> str:
        return f"wants another key: put it into {KEY_VARIABLE}: {error}"

    async def _has_models_below(self) -> bool:
        """Whether the API is where OpenAI's clients expect it, below the address."""
        address, mark, query = self._url.partition("?")
        servers = self._endpoint.open([f"{address.rstrip('/')}{_PATH}{mark}{query}"])
        try:
            return await self._list_models(servers) is not None
        except (NoAnswerError, RequestError):
            return False
        finally:
            await servers.close()

    def _check_length(self, answer: _ProbeAnswer, served: dict[str, _ServedModel]) -> None:
        """Raise RequestError where the server's context has no room for an answer."""
        model = served.get(self._endpoint.name.model)
        most = model.max_model_len if model else None
        asked = answer.usage.prompt_tokens if answer.usage else 0
        wanted = int(self._endpoint.probe.get("max_completion_tokens", 0))
        if most is not None and asked + wanted > most:
            raise RequestError(
                f"endpoint {self._url}: its max_model_len is {most}, and a short prompt with its "
                f"picture and answer takes {asked + wanted:,} tokens: start the server with more"
            )
