"""The node that imports a detector."""

from __future__ import annotations

from typing import get_args

from amodal_pipeline.methods.checkpoints import Checkpoint


def import_detector(library: str | None, file: str | None) -> Checkpoint:
    """Return a detector of another library as a checkpoint.

    Args:
        library, file: as for :func:`~amodal_pipeline.methods.importing.import_detector`.

    Raises:
        ValueError: one of the two is not given, or the library is not known.
    """
    from amodal_pipeline.methods.importing import Library
    from amodal_pipeline.methods.importing import import_detector as run

    known = get_args(Library)
    if library not in known or not file:
        raise ValueError(
            "say what to import: kedro run --pipeline=import_detector --params "
            f"from={'|'.join(known)},file=<the library's file of weights>"
            f" (now from={library}, file={file})"
        )
    return run(library, file)
