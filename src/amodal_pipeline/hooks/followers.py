"""What is sent to MLflow while a node runs, read from the files that it writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amodal_pipeline.jobs.rows import Row


class Follower(threading.Thread):
    """Looks every two seconds, and once more when it is stopped, at what a node has written.

    The training loop knows nothing of MLflow, and may run in another process.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._look = look
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(2.0):
            self._look()

    def stop(self) -> None:
        self._ended.set()
        self.join()
        self._look()


class FollowedFile:
    """A file that is of no interest as an earlier run left it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = self._state()

    @property
    def changed(self) -> bool:
        return self._state() not in (None, self._before)

    def _state(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


class FollowedHistory:
    """The lines that a training adds to its ``history.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.file = FollowedFile(path)
        self._sent = 0

    def send(self, log: Callable[[list[dict]], None]) -> None:
        """Hand over the lines that are new; they count as sent when ``log`` raises nothing."""
        from amodal_pipeline.training.state import read_history

        if not self.file.changed:
            return
        rows = [r for r in read_history(self.file.path) if r["iteration"] > self._sent]
        if rows:
            log(rows)
            self._sent = rows[-1]["iteration"]


class FollowedRow:
    """A row of an ablation: the files that tell how far it is, and its run once it has one."""

    def __init__(self, row: Row, folder: Path, parts: Path) -> None:
        self.row, self.folder = row, folder
        self.history = FollowedHistory(folder / "history.jsonl")
        self.scored = FollowedFile(parts / f"{row.stem}.csv")
        self.run: str | None = None
