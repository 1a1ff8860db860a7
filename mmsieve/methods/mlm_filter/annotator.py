"""MLM-Filter (arXiv 2403.02677) behind a server: `mlm-filter:endpoint:URL#NAME`.

A model that speaks OpenAI's chat completions is asked a question per metric, as published: image
and caption first, the first line of the answer is the score. What differs on purpose:

- The published script stops after two tokens, which of 100 leaves 10 where a digit is a token;
  here an answer has room for the whole number, and no space is put before it.
- An answer that is no integer from 0 to 100 makes the row model_output_invalid, where the published
  table has whatever text it was; scores of the other metrics stay in the row.
- The picture is sent as it is: the server resizes it, and cuts nothing off the prompt.
"""

from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
from cyclopts import Parameter

from mmsieve.clients.checking import PROBE, check_endpoint, probe_picture
from mmsieve.clients.endpoint import GROUP, SCHEME, Endpoint, EndpointName, ServerOptions
from mmsieve.devices import resolve_device
from mmsieve.engine.annotator import Annotator, Runner, RunnerOptions
from mmsieve.errors import RequestError
from mmsieve.methods.mlm_filter.inputs import METRICS, CaptionPreparer, parse_metrics
from mmsieve.methods.mlm_filter.runner import MlmFilterRunner, column, request_body
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.sample import Sample
from mmsieve.tables import SCORE

NAME = "mlm-filter"
"""Of the method, in a model's name."""
USAGE = f"{NAME}:{SCHEME}URL#NAME"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MlmFilterOptions(ServerOptions):
    """What a model on a server is asked for, and how."""

    metrics: Annotated[str | None, GROUP] = None
    """Of `mlm-filter`: only these, separated by commas (image_text_matching,
    object_detail_fulfillment, caption_text_quality, semantic_understanding); all by default, a
    request each."""


class MlmFilter(Annotator):
    """A model on a server that is asked MLM-Filter's questions, as an annotator."""

    spread = 0

    def __init__(self, name: str, asked: MlmFilterOptions, options: ScoringOptions) -> None:
        """Raises RequestError for what can't be meant.

        The fingerprint says which model it is, not where: servers come and go.
        """
        if not name.startswith(SCHEME):
            raise RequestError(f"model {NAME}:{name}: is asked on a server: give {USAGE}")
        options.refuse(("image_fit", "max_text_tokens", "plain_text", "fast_images"), NAME)
        self.metrics = parse_metrics(asked.metrics)
        self._name = EndpointName.parse(name)
        self._asked, self._options = asked, options
        self.device = resolve_device(options.device)
        scores = [(column(metric), pa.int32()) for metric in self.metrics]
        self.schema = pa.schema([(SCORE, pa.float32()), *scores])
        self.fingerprint = {
            "method": "mlm-filter endpoint 1",
            "served name": self._name.model,
            "metrics": ", ".join(self.metrics),
            "apply_orientation": str(options.apply_orientation),
            "image_limits": str(options.image_limits),
        }

    def preparer(self) -> CaptionPreparer:
        """The CPU half."""
        return CaptionPreparer(self._options.apply_orientation, self._options.image_limits)

    def check(self, options: RunnerOptions) -> None:
        """Raise RequestError unless the servers have the model and take a request."""
        check_endpoint(self._endpoint(options))

    def runner(self, options: RunnerOptions) -> Runner:
        """The half that holds the connections; a device is for models of one's own."""
        return MlmFilterRunner(self._endpoint(options), self.metrics)

    def _endpoint(self, options: RunnerOptions) -> Endpoint:
        item = self.preparer().prepare(Sample.caption(probe_picture(), PROBE))
        longest = max(self.metrics, key=lambda metric: len(METRICS[metric]))
        probe = request_body(item, longest)  # a server with too little room for it is found first
        return Endpoint(self._name, self._asked, probe, options.patience, options.kept)
