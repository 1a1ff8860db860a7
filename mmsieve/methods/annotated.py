"""A model on its own: samples in, rows out, all in this process."""

from collections.abc import Iterable
from typing import Any

from mmsieve.annotator import Annotator, Row, RunnerOptions
from mmsieve.errors import SampleError, Status
from mmsieve.sample import Sample


class AnnotatedModel:
    """An annotator with its weights loaded."""

    def __init__(self, annotator: Annotator, batch_tokens: int | None = None) -> None:
        self._annotator = annotator
        self._preparer = annotator.preparer()
        self._runner = annotator.runner(RunnerOptions(annotator.device, batch_tokens))

    def annotate(self, samples: Iterable[Sample]) -> list[Row]:
        """A row per sample, in order: `key`, `status`, `error`, and the columns of the schema.

        A sample that can't be used has its reason as status, and None in the other columns but
        for what is known of it all the same.
        """
        rows: list[Row] = []
        ready: list[tuple[int, Any]] = []
        for sample in samples:
            rows.append({"key": sample.key, "status": str(Status.OK), "error": None})
            rows[-1] |= dict.fromkeys(self._annotator.schema.names)
            try:
                ready.append((len(rows) - 1, self._preparer.prepare(sample)))
            except SampleError as error:
                rows[-1] |= _failed(error)
        for index, row in self._runner.run(ready):
            rows[index] |= _failed(row) if isinstance(row, SampleError) else row
        return rows


def _failed(error: SampleError) -> Row:
    return {**error.known, "status": str(error.status), "error": str(error)}
