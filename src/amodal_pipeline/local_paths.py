"""Paths of this machine's file systems; imports the standard library only."""

import re


def check_local(path: str) -> str:
    """Return ``path`` if it is one of this machine's file systems.

    Raises:
        ValueError: it begins with a protocol ("s3://bucket/images"), of which ``Path`` would make a
            local folder.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise ValueError(f"{path} is remote, and only local paths are read: copy or mount it first")
    return path
