"""Handling of Ctrl-C and SIGTERM: the run ends cleanly and says how to continue it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline.node import Node

_JOBS = "params:folders.jobs."  # a folder per training


class InterruptHook:
    """Ends a run at SIGTERM (SLURM, Docker, ``kill``) as at Ctrl-C, and prints how to continue it.

    The exit status after SIGTERM is 143. A second signal has its usual effect.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._process = os.getpid()
        self._restart = False
        self._training: Path | None = None  # folder in which the running node trains
        self._folders: list[Path] = []  # folders in which it may train other methods first
        self._since = 0.0

    @hook_impl
    def before_pipeline_run(self, catalog: DataCatalog) -> None:
        self._restore()
        if threading.current_thread() is not threading.main_thread():
            return  # signals reach the main thread only
        self._process = os.getpid()
        self._restart = bool(catalog.load("parameters").get("restart"))
        self._training, self._folders = None, []
        for number in (signal.SIGINT, signal.SIGTERM):
            # A signal that is ignored, as after nohup, stays ignored.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._stop)

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        places = (_JOBS, "params:folders.models")
        self._folders = [folder for name, folder in inputs.items() if name.startswith(places)]
        trains = "training" in node.tags
        self._training = inputs[f"{_JOBS}{node.namespace}"] if trains else None
        self._since = time.time()

    @hook_impl
    def after_pipeline_run(self) -> None:
        self._restore()

    @hook_impl
    def on_pipeline_error(self) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        if os.getpid() != self._process:
            os.kill(os.getpid(), number)  # a forked worker, which has no message to print
            return
        if hasattr(signal, "SIGCHLD"):
            # Loader workers die of the same signal; torch's error about them would hide the cause.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            advice = self._advice()
        except Exception:  # a module is half imported, or a folder was removed
            advice = "Run the same command again: finished steps are kept."
        said = f"\nStopped by {signal.Signals(number).name}. {advice}\n"
        try:
            sys.stderr.write(said)
            sys.stderr.flush()
        except (RuntimeError, ValueError):  # stderr was being written to, or is closed
            os.write(2, said.encode())
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _advice(self) -> str:
        again = "Run the same command again" + " without restart=true" * self._restart
        folder = self._training or self._last_trained()
        if folder is None:
            return f"{again}: finished steps are kept."
        return f"{again}: {folder.name} {_continuation(folder)}."

    def _last_trained(self) -> Path | None:
        """Return the folder of the training that reported last since the node began."""
        found = {
            path.parent: path.stat().st_mtime
            for folder in self._folders
            for pattern in ("history.jsonl", "*/history.jsonl")
            for path in folder.glob(pattern)
        }
        last = max(found, key=found.__getitem__, default=None)
        return last if last and found[last] >= self._since else None


def _continuation(folder: Path) -> str:
    from amodal_pipeline.training.state import read_card

    try:
        card = read_card(folder)
    except ValueError as error:
        return f"cannot continue, {error}"
    if card is None:
        return "starts from the beginning, because no state was saved yet"
    return f"continues at iteration {card.iteration}"
