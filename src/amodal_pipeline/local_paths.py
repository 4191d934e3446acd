"""Check of local paths. Imports the standard library only."""

import re


def check_local(path: str) -> str:
    """Return ``path`` if it is local.

    Raises:
        ValueError: it begins with a protocol ("s3://bucket/images"), which ``Path`` would take for
            the name of a local folder.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise ValueError(f"{path} is remote, but only local paths can be read: copy or mount it")
    return path
