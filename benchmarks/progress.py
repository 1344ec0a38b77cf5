"""Progress of a long run: what is being measured, how much is left, and when it will end."""

from __future__ import annotations

import sys
import time


class Progress:
    """One line on a terminal, rewritten for each item; elsewhere a line of its own for each item."""

    def __init__(self, total: int, stream=None):
        self.total, self.done, self.started = total, 0, time.monotonic()
        self.stream = stream or sys.stderr
        self.rewrites = self.stream.isatty()

    def begin(self, item: str) -> None:
        self._write(f"[{self.done + 1}/{self.total}] {item}{self.end()}")

    def finish(self) -> None:
        self.done += 1

    def end(self) -> str:
        """When all items are done if each of the rest takes as long as those done did; empty before the first."""
        if not self.done:
            return ""
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        return f", ends about {time.strftime('%H:%M:%S', time.localtime(time.time() + left))}"

    def say(self, text: str) -> None:
        """A result on standard output, the line of progress out of its way."""
        if self.rewrites:
            self._write("")
        print(text, flush=True)

    def _write(self, text: str) -> None:
        print(f"\r\033[K{text}" if self.rewrites else text, end="" if self.rewrites else "\n", file=self.stream,
              flush=True)  # fmt: skip
