"""Checks that the images of a table exist and have the size that it says."""

import os
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from amodal_pipeline.annotations.images import read_size
from amodal_pipeline.annotations.storage import inside
from amodal_pipeline.annotations.tables import AmodalAnnotations

_READERS = 16  # threads: headers of small files are a matter of waiting


def check_on_disk(annotations: AmodalAnnotations) -> None:
    """Refuse absent and changed images before anything trains, not hours later.

    Raises:
        ValueError: some images are missing, unreadable or of another size; counts them and names
            the first few.
    """
    root = annotations.metadata.image_root
    found = [
        f"image {image_id}: {problem[0]} {problem[1]}"
        for image_id, problem in zip(
            annotations.images["image_id"], image_problems(annotations.images, root), strict=True
        )
        if problem is not None
    ]
    if found:
        raise ValueError(
            f"{len(found)} of the {len(annotations.images)} images of "
            f"{annotations.metadata.dataset} {annotations.metadata.split} below {root} are "
            f"missing or not those of the annotations: {'; '.join(found[:5])}. Correct the image "
            "folder, fetch them, or leave them out (source.absent_images: reject)"
        )


def image_problems(images: pd.DataFrame, root: str | os.PathLike) -> list[tuple[str, str] | None]:
    """Return (field, reason) for each missing, unreadable or resized image, else None.

    Args:
        images: rows of IMAGES.
        root: the folder that ``file_name`` is relative to. Only headers are read.
    """

    def problem(row: tuple[str, int, int]) -> tuple[str, str] | None:
        name, height, width = row
        try:
            if not inside(root, name).is_file():
                return "file_name", f"names {name}, which is missing"
            found = read_size(root, name)
        except (ValueError, OSError) as error:  # OSError: a name too long for the file system
            return "file_name", f"names {name}: {error}"
        if found == (height, width):
            return None
        return "height", (f"and width are {height}x{width}, {name} is {found[0]}x{found[1]} pixels")

    rows = zip(images["file_name"], images["height"], images["width"], strict=True)
    with ThreadPoolExecutor(_READERS) as threads:
        return list(threads.map(problem, rows))
