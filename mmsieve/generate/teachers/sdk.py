"""What both SDKs have in common, from a call to the body of its response.

They retry by themselves (429, 5xx, timeouts, broken connections; Retry-After, else backoff with
jitter). What reaches us is an answer, which may be a bad one, or a TeacherError.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from mmsieve.generate.teachers.protocol import Connection, TeacherError, as_trouble


class SdkTeacher:
    """A client of an SDK, whose errors become TeacherErrors."""

    def __init__(self, connection: Connection, client: Any, errors: type[Exception]) -> None:
        self._connection, self._errors = connection, errors
        self._client = client(
            api_key=connection.key,
            base_url=connection.base_url,
            max_retries=connection.max_retries,
            timeout=connection.timeout,
        )

    async def body(self, call: Callable[[], Awaitable[Any]]) -> str:
        """The body of a response; raises TeacherError.

        The SDK's timeout is for silence, and it obeys any Retry-After: a bound for the whole call
        keeps a server that drips, or asks to come back next week, from holding a worker for ever.
        """
        most = (self._connection.max_retries + 1) * (self._connection.timeout + 60)
        try:
            async with asyncio.timeout(most):
                response = await call()
            body: str = response.http_response.text
        except TimeoutError:
            raise TeacherError("failed", f"no answer within {most:.0f} s") from None
        except self._errors as error:
            raise as_trouble(error, self._connection) from None
        return body

    async def read(self, model: type[BaseModel], call: Callable[[], Awaitable[Any]]) -> Any:
        """A response as a model; raises TeacherError, also where it is something else."""
        read = read_body(model, await self.body(call))
        if read is None:
            raise TeacherError("failed", "the response is not what the protocol says")
        return read

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def read_body(model: type[BaseModel], body: str) -> Any:
    """A response as the provider promises it, or None where it isn't: SDKs don't check."""
    try:
        return model.model_validate_json(body)
    except ValueError:
        return None
