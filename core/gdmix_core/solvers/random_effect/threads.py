"""A few threads over a list of parts; enough where kernels release the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

Part = TypeVar("Part")


def on_threads(work: Callable[[Part], None], parts: Sequence[Part], threads: int) -> None:
    """Run `work` on every part; threads take the next part when they are done with one."""
    threads = min(threads, len(parts))
    if threads <= 1:
        for part in parts:
            work(part)
        return
    remaining = iter(list(parts))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            with lock:
                part = next(remaining, None)
            if part is None:
                return
            try:
                work(part)
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                errors.append(error)

    workers = [threading.Thread(target=run, name=f"random-effect-{k}") for k in range(threads - 1)]
    for worker in workers:
        worker.start()
    run()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
