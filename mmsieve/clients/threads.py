"""Work that goes on in a thread of its own while its results are taken one by one."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, whether or not a loop runs in this thread, as in a notebook.

    There it runs in a thread of its own, and an interrupt cancels it and waits for its end.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)

    async def produce(put: Callable[[T], Awaitable[None]]) -> None:
        await put(await work)

    (result,) = iterate(produce, 1)
    return result


class _End:
    """After the last result."""


def iterate(
    produce: Callable[[Callable[[T], Awaitable[None]]], Coroutine[Any, Any, None]], ahead: int
) -> Iterator[T]:
    """What a coroutine hands out, which runs up to so many results ahead of who takes them.

    `produce` is given an async function to hand out a result. What it raises is raised here; where
    no more is taken, it is cancelled and waited for.
    """
    results: SimpleQueue[T | type[_End] | BaseException] = SimpleQueue()
    loop = asyncio.new_event_loop()
    room = asyncio.Semaphore(ahead)

    async def put(result: T) -> None:
        await room.acquire()
        results.put(result)

    task = loop.create_task(produce(put))

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except BaseException as error:  # noqa: BLE001 - raised by who takes the results
            results.put(error)
        else:
            results.put(_End)
        finally:
            loop.run_until_complete(_end_others())
            loop.close()

    thread = threading.Thread(target=work, name="mmsieve-requests", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not _End:
            if isinstance(result, BaseException):
                raise result
            with suppress(RuntimeError):  # it is through
                loop.call_soon_threadsafe(room.release)
            yield result  # type: ignore[misc]
    finally:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


async def _end_others() -> None:
    """Cancel what is left in this loop, and wait for it."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for one in left:
        one.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
