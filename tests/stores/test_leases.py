"""Who writes an output at a store."""

import json
import os
import subprocess
import sys
import threading

import fsspec
import pytest

from mmsieve.errors import MmsieveError, RequestError
from mmsieve.leftovers import host
from mmsieve.locks import writing_to
from mmsieve.stores.leases import Lease, LeaseRecord, LeaseTimes, leases_of
from mmsieve.stores.paths import StorePath, place_of


@pytest.fixture
def out() -> StorePath:
    fsspec.filesystem("memory").store.clear()
    return place_of("memory://bucket/out")


def left(out: StorePath) -> list[dict[str, object]]:
    return [json.loads(path.read_bytes()) for path in leases_of(out)]


def leave(out: StorePath, **record: object) -> None:
    """A lease of another run, as it stands there."""
    fields = {"held": True, "beat": 1, "at": 0, "verb": "score", "part": None} | record
    (leases_of_folder(out) / "other.json").write_bytes(json.dumps(fields).encode())


def leases_of_folder(out: StorePath) -> StorePath:
    return out.with_name(f".{out.name}.leases")


def get(out: StorePath, times: LeaseTimes, wait: bool = False) -> Lease:
    lease = Lease(out, LeaseRecord(verb="rate", process=os.getpid()), times)
    lease.get(lambda record: True, wait, lambda record: f" ({record.verb})")
    return lease


def test_one_run_at_a_time_and_the_other_is_told_who(out):
    with writing_to(out, "score"):
        with pytest.raises(RequestError) as error, writing_to(out, "filter"):
            pass
        said = f"--out {out}: another run is writing there (score, process {os.getpid()} on"
        assert said in str(error.value) and str(error.value).endswith("or say --wait")
        with writing_to(out.parent / "other", "filter"):
            pass
        assert len(left(out)) == 1
    with writing_to(out, "filter"):
        pass
    assert not left(out)


def test_parts_of_one_request_write_together(out):
    with writing_to(out, "score", part="0/2", request={"model": "a"}):
        with writing_to(out, "score", part="1/2", request={"model": "a"}):
            assert len(left(out)) == 2
        for part, model, said in (
            ("1/2", "b", "made with another model"),
            ("0/2", "a", "another run is writing there"),
            (None, "a", "another run is writing there"),
        ):
            with (
                pytest.raises(RequestError, match=said),
                writing_to(out, "score", part=part, request={"model": model}),
            ):
                pass
    assert not left(out)


def test_the_lease_of_a_process_that_is_gone_holds_nothing(out):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    leave(out, machine=host(), process=process.pid)
    with writing_to(out, "score"):
        assert [record["process"] for record in left(out)] == [os.getpid()]


def test_another_machine_is_watched_before_its_lease_is_taken(out):
    seen: list[float] = []
    leave(out, machine="elsewhere", process=1)
    with get(out, LeaseTimes(sleep=seen.append)).kept():
        assert seen == [30.0] and len(left(out)) == 1

    def beats(seconds: float) -> None:
        leave(out, machine="elsewhere", process=1, beat=2)

    leave(out, machine="elsewhere", process=1)
    with pytest.raises(RequestError, match="another run is writing there"):
        get(out, LeaseTimes(sleep=beats))
    leave(out, machine="elsewhere", process=1, at=1e12)  # its clock is ahead, or ours behind
    with pytest.raises(RequestError, match=r"writing there \(score\)"):
        get(out, LeaseTimes(sleep=seen.append))
    assert [record["machine"] for record in left(out)] == ["elsewhere"]


def test_who_waits_gets_the_lease_once_it_is_free(out):
    leave(out, machine="elsewhere", process=1, at=1e12)

    def end(seconds: float) -> None:
        leases_of_folder(out).remove()

    with get(out, LeaseTimes(sleep=end), wait=True).kept():
        assert len(left(out)) == 1


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"at": "x"}', b'{"verb": 1}', b"\xff"])
def test_what_is_no_lease_holds_nothing(out, data):
    (leases_of_folder(out) / "other.json").write_bytes(data)
    with writing_to(out, "score"):
        pass


def test_of_two_that_begin_at_once_never_both_write(out):
    writing, most, lock = [], [], threading.Lock()

    def write() -> None:
        lease = get(out, LeaseTimes(tie=0.01, poll=0.01, tries=1000), wait=True)
        with lease.kept():
            with lock:
                writing.append(1)
                most.append(len(writing))
            left(out)
            with lock:
                writing.pop()

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5 and not left(out)


def test_who_has_lost_the_lease_writes_nothing_more(out):
    gone = threading.Event()
    with get(out, LeaseTimes(beat=0.01)).kept():
        (out / "x").write_bytes(b"1")
        leases_of_folder(out).remove()
        while not gone.wait(0.01):
            try:
                (out / "x").write_bytes(b"1")
            except MmsieveError as error:
                assert "another run has taken over" in str(error)
                gone.set()
        (out.parent / "other").write_bytes(b"1")
    (out / "x").write_bytes(b"2")
