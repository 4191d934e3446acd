"""Threads that send a running node's progress to MLflow, from the files that it writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amodal_pipeline.jobs.rows import Row


class Follower(threading.Thread):
    """Calls ``look`` every two seconds, and once more when stopped.

    The training loop is independent of MLflow and may run in another process, so its progress is
    read from files.
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
    """A file, of which only changes since the start of this run matter."""

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
    """New lines in a training's ``history.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.file = FollowedFile(path)
        self._sent = 0

    def send(self, log: Callable[[list[dict]], None]) -> None:
        """Call ``log`` with the new lines; they count as sent unless it raises."""
        from amodal_pipeline.training.state import read_history

        if not self.file.changed:
            return
        rows = [r for r in read_history(self.file.path) if r["iteration"] > self._sent]
        if rows:
            log(rows)
            self._sent = rows[-1]["iteration"]


class FollowedRow:
    """A row of an ablation: the files that show its progress, and its MLflow run once opened."""

    def __init__(self, row: Row, folder: Path, parts: Path) -> None:
        self.row, self.folder = row, folder
        self.history = FollowedHistory(folder / "history.jsonl")
        self.scored = FollowedFile(parts / f"{row.stem}.csv")
        self.run: str | None = None
