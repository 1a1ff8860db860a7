"""MLM-Filter's requests, and rows from their answers: a request per metric of a caption pair."""

from collections.abc import Iterable, Iterator
from typing import Any

from mmsieve.clients.endpoint import Endpoint, EndpointRequest
from mmsieve.engine.annotator import Row
from mmsieve.errors import SampleError, Status
from mmsieve.methods.base import Result
from mmsieve.methods.mlm_filter.inputs import CaptionItem, question, read_score
from mmsieve.tables import SCORE

_TOKENS = 8
"""Of an answer, at most: white space, three digits, the end of the line."""
_SHOWN = 60
"""Characters of an answer that is no score."""


def column(metric: str) -> str:
    """The name of the column of a metric's scores, as published."""
    return f"{metric}_score"


def request_body(item: CaptionItem, metric: str) -> dict[str, Any]:
    """The body of the request for a metric's score; nothing that OpenAI's protocol hasn't."""
    content = [item.image, {"type": "text", "text": question(metric, item.caption)}]
    return {
        "max_completion_tokens": _TOKENS,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }


def read_answer(answer: Any) -> dict[str, Any]:
    """What is kept of an answer: its text, and why it ended; raises LookupError or TypeError."""
    choice = answer["choices"][0]
    text = str(choice["message"].get("content") or "")
    return {"text": text, "end": choice.get("finish_reason")}


class MlmFilterRunner:
    """Rows of a stream of items, in the order in which the answers come."""

    ahead = True
    """Answers go on coming while something else is done with the rows."""

    def __init__(self, endpoint: Endpoint, metrics: tuple[str, ...]) -> None:
        self._endpoint, self._metrics = endpoint, metrics
        self.notes = {"endpoint": str(endpoint.name)}

    def run(self, items: Iterable[tuple[int, CaptionItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item); where a request is refused, that is the sample's
        error. Raises MmsieveError where no request can succeed."""
        pending: dict[int, dict[str, dict[str, Any] | SampleError]] = {}

        def requests() -> Iterator[EndpointRequest]:
            for index, item in items:
                pending[index] = {}
                for metric in self._metrics:
                    yield EndpointRequest((index, metric), request_body(item, metric), group=index)

        for (index, metric), answer in self._endpoint.ask(requests(), read_answer):
            pending[index][metric] = answer
            if len(pending[index]) == len(self._metrics):
                yield index, self._row(pending.pop(index))

    def _row(self, answers: dict[str, dict[str, Any] | SampleError]) -> Row | SampleError:
        """The row of a sample; of one with a score that isn't there the others are known."""
        row: Row = {}
        refused: SampleError | None = None
        wrong: list[str] = []
        for metric in self._metrics:
            answer = answers[metric]
            if isinstance(answer, SampleError):
                refused = refused or answer
                continue
            score = row[column(metric)] = read_score(answer["text"], answer["end"] == "length")
            if score is None:
                wrong.append(f"{metric} {answer['text'][:_SHOWN]!r}")
        if refused is not None:
            return refused.knowing(row)
        if wrong:
            message = f"not a score from 0 to 100: {', '.join(wrong)}"
            return SampleError(Status.MODEL_OUTPUT_INVALID, message, row)
        return {SCORE: sum(row.values()) / len(row), **row}
