"""Work that flows: each stage takes from one queue and fills the next, several workers at a time.

A full queue makes the stage before it wait, so little is under way at any moment. None ends a queue. Knows nothing of
documents.
"""

from asyncio import Queue, TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def fill(queue: Queue[T | None], items: AsyncIterator[T]) -> None:
    """Put everything into a queue, and end it."""
    async for item in items:
        await queue.put(item)
    await queue.put(None)


async def drain(queue: Queue[T | None]) -> AsyncIterator[T]:
    """What comes out of a queue until it ends; several may take from one."""
    while (item := await queue.get()) is not None:
        yield item
    queue.put_nowait(None)  # for the next worker; there is room, since nobody fills it any more


async def work_off(
    queue: Queue[T | None], work: Callable[[T], Awaitable[object]], *, workers: int, then_end: Queue[Any] | None = None
) -> None:
    """Give everything that comes out of a queue to some worker; `then_end` is the queue that they fill."""

    async def worker() -> None:
        async for item in drain(queue):
            await work(item)

    async with TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    if then_end is not None:
        await then_end.put(None)


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the first error of a group itself: the others are of tasks that it took along."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
