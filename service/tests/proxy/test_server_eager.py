"""A server's tasks: cancelled whenever their caller leaves, be it in the very turn in which a wait is over."""

import asyncio

from athena.proxy.server.eager import EagerTask


class Work:
    """Waits for a future, and notes what came of it."""

    def __init__(self) -> None:
        self.awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.became = ""

    async def run(self) -> None:
        try:
            await self.awaited
            self.became = "went on"
        except asyncio.CancelledError:
            self.became = "cancelled"
            raise


async def test_a_task_is_cancelled_where_it_waits() -> None:
    work = Work()
    task = EagerTask(work.run())
    task.run()
    task.cancel()
    await asyncio.sleep(0)
    assert work.became == "cancelled"
    assert work.awaited.cancelled()


async def test_a_task_whose_wait_was_over_in_the_same_turn_is_cancelled_nonetheless() -> None:
    work = Work()
    task = EagerTask(work.run())
    task.run()
    work.awaited.set_result(None)
    task.cancel()
    await asyncio.sleep(0)
    assert work.became == "cancelled"


async def test_a_task_that_is_cancelled_while_it_runs_goes_no_further_than_its_next_wait() -> None:
    reached: list[str] = []

    async def work() -> None:
        task.cancel()
        reached.append("before")
        await asyncio.sleep(0)
        reached.append("after")

    task = EagerTask(work())
    task.run()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reached == ["before"]


async def test_a_task_may_still_wait_for_something_once_it_was_cancelled() -> None:
    said: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    told: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            told.append(await said)

    task = EagerTask(work())
    task.run()
    task.cancel()
    await asyncio.sleep(0)
    said.set_result("goodbye")
    await asyncio.sleep(0)
    assert told == ["goodbye"]
