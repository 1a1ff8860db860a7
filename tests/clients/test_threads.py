"""Coroutines in whatever thread: a script's, a worker's, a notebook's, whose loop already runs."""

import asyncio

import pytest

import mmsieve
from mmsieve.clients.threads import run_to_end
from tests.helpers.shards import image, write_tar
from tests.helpers.teacher_server import TeacherServer


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def fail() -> None:
    raise ZeroDivisionError


def in_a_notebook(work):
    """What a call gives in a thread whose loop is running."""

    async def cell():
        return work()

    return asyncio.run(cell())


@pytest.mark.parametrize("place", [lambda work: work(), in_a_notebook])
def test_a_coroutine_runs_to_its_end(place):
    assert place(lambda: run_to_end(double(4))) == 8
    with pytest.raises(ZeroDivisionError):
        place(lambda: run_to_end(fail()))


def test_a_teacher_is_asked_from_a_notebook(tmp_path):
    write_tar(tmp_path / "in.tar", [(f"{n}.png", image(n, "PNG", (30, 30))) for n in range(2)])
    texts = {
        "positive": "A red square.",
        "changed": {"property": "colour", "right": "red", "wrong": "blue"},
        "hard_negative": "A blue square.",
        "medium_negative": "Some squares and a dog.",
        "easy_negative": "A train in the rain.",
    }
    with TeacherServer(lambda ask: texts) as server:
        wanted = {"teacher": "openai:m", "base_url": f"{server.url}/v1", "quiet": True}
        report = in_a_notebook(
            lambda: mmsieve.generate_captions(
                tmp_path / "in.tar", out=tmp_path / "out", count=8, **wanted
            )
        )
    assert report.written["train.json"] == 8
    assert not report.failed
