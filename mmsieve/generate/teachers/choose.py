"""Which teacher a name means, and what reaching it needs."""

import os
from importlib.util import find_spec

from mmsieve.errors import RequestError
from mmsieve.generate.teachers.protocol import Connection, Teacher

_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
PROVIDERS = tuple(_KEYS)
NO_KEY = "none"
"""A server of one's own may want no key, but the SDKs want one."""


def split_name(name: str) -> tuple[str, str]:
    """Provider and model of `provider:MODEL`; raises RequestError."""
    provider, _, model = name.partition(":")
    if provider not in PROVIDERS or not model:
        raise RequestError(
            f"--teacher {name}: not rendered, anthropic:MODEL or openai:MODEL (with --base-url "
            "any server that speaks the same protocol)"
        )
    return provider, model


def api_key(provider: str, base_url: str | None) -> str:
    """The key from the environment; raises RequestError where it is missing and needed."""
    if find_spec(provider) is None:
        raise RequestError(
            f"--teacher {provider}: needs a package: pip install 'mmsieve[teachers]'"
        )
    key = os.environ.get(_KEYS[provider], "").strip()
    if key or base_url is not None:
        return key or NO_KEY
    raise RequestError(f"--teacher {provider}: set {_KEYS[provider]} in the environment")


def open_teacher(connection: Connection) -> Teacher:
    """The teacher of a provider."""
    if connection.provider == "anthropic":
        from mmsieve.generate.teachers.anthropic_teacher import AnthropicTeacher

        return AnthropicTeacher(connection)
    from mmsieve.generate.teachers.openai_teacher import OpenAITeacher

    return OpenAITeacher(connection)
