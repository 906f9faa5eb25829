"""Hosts of guest runs: a thread and a queue, and asyncio."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

from outcome import Outcome

import trio_lio


class Host:
    """The simplest loop that can be a host: one thread and its queue."""

    def __init__(self) -> None:
        self.todo: queue.Queue[Any] = queue.Queue()
        self.outcome: Outcome[Any] | None = None
        self.steps = 0

    def start(self, async_fn: Any, *args: Any, **options: Any) -> None:
        trio_lio.start_guest_run(
            async_fn,
            *args,
            run_sync_soon_threadsafe=self.todo.put,
            run_sync_soon_not_threadsafe=self.todo.put,
            done_callback=self.done,
            **options,
        )

    def done(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome

    def loop(self) -> Any:
        while self.outcome is None:
            self.todo.get(timeout=30)()
            self.steps += 1
        return self.outcome.unwrap()


def on_queue(async_fn: Any, *args: Any, **options: Any) -> Any:
    """Runs a guest on a plain thread and its queue: this one."""
    host = Host()
    host.start(async_fn, *args, **options)
    return host.loop()


def on_asyncio(async_fn: Any, *args: Any, **options: Any) -> Any:
    """Runs a guest on asyncio."""

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[Any] = loop.create_future()
        trio_lio.start_guest_run(
            async_fn,
            *args,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=over.set_result,
            host_uses_signal_set_wakeup_fd=True,
            **options,
        )
        return (await over).unwrap()

    return asyncio.run(host())
