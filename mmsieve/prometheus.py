"""What a run does, for Prometheus: text at http://127.0.0.1:PORT/metrics while it goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmsieve.errors import RequestError
from mmsieve.runs import runs_under_way

_PORTS = range(1, 65_536)
_OF_A_RUN = ["verb", "out", "part"]
"""Labels of every value."""


@dataclass(frozen=True)
class _Family:
    """A name that Prometheus knows, and which of a run's facts it is."""

    name: str
    text: str
    fact: str
    label: str = ""
    """Of a fact that has several values: what tells them apart."""
    is_counter: bool = False

    def values(self, facts: dict[str, Any]) -> dict[str, float]:
        """Of a run: label -> value; without a label there is one at most."""
        found = facts.get(self.fact)
        if isinstance(found, str):  # a phase: its value is its name
            return {found: 1}
        if isinstance(found, dict):
            return found
        return {} if found is None else {"": found}


_FAMILIES = (
    _Family("mmsieve_phase", "What a run does", "what", "phase"),
    _Family("mmsieve_share", "Part of the phase that is done, 0 to 1", "share"),
    _Family("mmsieve_left_seconds", "How long the phase takes still", "seconds_left"),
    _Family("mmsieve_units_per_second", "Of the phase, until now", "per_second"),
    _Family("mmsieve_units", "Samples or other units done in the phase", "done"),
    _Family("mmsieve_run_seconds", "Since the run began", "run_seconds"),
    _Family("mmsieve_shards", "Of the request", "shards"),
    _Family("mmsieve_shards_before", "That an earlier run had done", "shards_before"),
    _Family("mmsieve_shards_done", "By this run", "shards_done", is_counter=True),
    _Family("mmsieve_shards_failed", "By this run", "shards_failed", is_counter=True),
    _Family("mmsieve_rows", "By this run", "statuses", "status", is_counter=True),
    _Family("mmsieve_cpu_seconds", "Of all processes", "cpu_seconds", is_counter=True),
    _Family("mmsieve_waiting_seconds", "And for what", "waits", "reason", is_counter=True),
    _Family("mmsieve_memory_peak_bytes", "Of all processes", "peak_memory"),
    _Family("mmsieve_gpu_memory_peak_bytes", "Of tensors on all GPUs", "gpu_memory"),
)


def metrics_port(words: list[str]) -> tuple[list[str], int | None]:
    """A command line without --metrics-port, and the port; raises RequestError."""
    left, given = list[str](), None
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--metrics-port":
            given = value if equals else next(rest, "")
        else:
            left.append(word)
    if given is None:
        return left, None
    if not given.isdecimal() or int(given) not in _PORTS:
        raise RequestError(f"--metrics-port {given}: must be a port, 1 to {_PORTS[-1]}")
    return left, int(given)


@contextmanager
def serving_metrics(port: int | None) -> Iterator[None]:
    """Answer Prometheus on this port while the block runs, to this machine alone; None: don't."""
    if port is None:
        yield
        return
    try:
        import prometheus_client
    except ImportError as error:
        fix = "pip install 'mmsieve[metrics]'"
        raise RequestError(f"--metrics-port needs prometheus_client: {fix}") from error
    registry = prometheus_client.CollectorRegistry()
    registry.register(_RunCollector())
    try:
        server, thread = prometheus_client.start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        raise RequestError(f"--metrics-port {port}: can't be used: {error.strerror}") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _RunCollector:
    """Asks the runs that are under way whenever Prometheus asks."""

    def collect(self) -> Iterator[Any]:
        """A family of values for each fact."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        runs = runs_under_way()
        for one in _FAMILIES:
            kind = CounterMetricFamily if one.is_counter else GaugeMetricFamily
            extra = [one.label] if one.label else []
            family = kind(one.name, one.text, labels=[*_OF_A_RUN, *extra])
            for facts in runs:
                who = [facts[name] or "" for name in _OF_A_RUN]
                for label, value in one.values(facts).items():
                    family.add_metric([*who, label] if extra else who, value)
            yield family
