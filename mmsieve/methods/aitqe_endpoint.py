"""AITQE behind a server that speaks OpenAI's chat completions: `endpoint:URL#NAME`.

What `convert` writes can be served by vLLM, SGLang or `transformers serve`; the server puts the
image in front of the text that it is sent. Needs the extra [teachers].
"""

import os
import re
from importlib.util import find_spec
from typing import Literal

from mmsieve.annotator import Runner, RunnerOptions
from mmsieve.devices import resolve_device
from mmsieve.errors import RequestError
from mmsieve.methods.aitqe import EnhanceOptions
from mmsieve.methods.aitqe_endpoint_inputs import Endpoint, EndpointPreparer
from mmsieve.methods.unifilter import ScoringOptions

SCHEME = "endpoint:"
KEY_VARIABLE = "MMSIEVE_ENDPOINT_KEY"
_NO_KEY = "none"
"""A server of one's own may want no key, but the SDK wants one."""


def parse_endpoint(name: str) -> Endpoint:
    """The endpoint of `endpoint:URL#NAME`; raises RequestError."""
    url, _, model = name.removeprefix(SCHEME).partition("#")
    if not re.match(r"https?://[^\s/]", url) or not model:
        raise RequestError(
            f"model {name!r}: give {SCHEME}URL#NAME, such as {SCHEME}http://localhost:8000/v1#aitqe"
        )
    if find_spec("openai") is None:
        raise RequestError(f"model {name!r}: needs a package: pip install 'mmsieve[teachers]'")
    return Endpoint(url, model)


class AitqeEndpoint:
    """AITQE on a server, as an annotator."""

    kind: Literal["assessment"] = "assessment"

    def __init__(
        self, endpoint: Endpoint, enhancing: EnhanceOptions, options: ScoringOptions
    ) -> None:
        self._endpoint, self._enhancing, self._options = endpoint, enhancing, options
        self.device = resolve_device(options.device)
        self.schema = enhancing.rows.schema
        self.fingerprint = {
            "method": "aitqe endpoint 1",
            "endpoint": f"{endpoint.url}#{endpoint.model}",
            "apply_orientation": str(options.apply_orientation),
            "image_limits": str(options.image_limits),
            **enhancing.fingerprint,
        }

    def preparer(self) -> EndpointPreparer:
        """The CPU half."""
        return EndpointPreparer(
            orient=self._options.apply_orientation,
            limits=self._options.image_limits,
            keep_sample=self._enhancing.accept_if_better is not None,
        )

    def runner(self, options: RunnerOptions) -> Runner:
        """The half that holds the connections; `options` are for devices of one's own."""
        from mmsieve.methods.aitqe_endpoint_runner import EndpointRunner

        key = os.environ.get(KEY_VARIABLE, "").strip() or _NO_KEY
        return EndpointRunner(self._endpoint, key, self._enhancing)
