"""Progress bars of long nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from amodal_pipeline.training.loop import Step


def plain_console() -> Console:
    """Return a console that prints brackets literally: names and paths may have them."""
    return Console(markup=False)


@contextmanager
def progress(title: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback ``(done, total)`` that drives one bar, with the time left."""
    with _bar(console) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_progress(
    title: str, console: Console | None = None
) -> Iterator[Callable[[Step], None]]:
    """Yield a callback for the training loop that shows losses, images per second and time left."""
    with _bar(console) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(step: Step) -> None:
            parts = [f"{k.removeprefix('loss_')} {v:.3f}" for k, v in step.losses.items()]
            speed = f"{step.images_per_second:.1f} images/s"
            note = ", ".join([*parts, speed]) if parts else "was trained already"
            bar.update(task, completed=step.iteration, total=step.iterations, note=note)
            if not bar.console.is_terminal:
                # A log file shows no bar: it gets a line per report instead.
                minutes = step.seconds_left / 60
                bar.console.print(
                    f"{title} {step.iteration}/{step.iterations}: {note}, {minutes:.1f} min left",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )

        yield show


def _bar(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
    )
