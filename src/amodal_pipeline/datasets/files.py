"""Pictures, and folders that nodes read from or write into."""

import base64
import io
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview
from PIL import Image

from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.storage import check_local, replacing

_PREVIEW_SIDE = 1400


class PictureDataset(AbstractDataset[Any, Image.Image]):
    """A PNG, saved from a Pillow image or a matplotlib figure and loaded as a Pillow image."""

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(check_local(filepath))
        self.metadata = metadata

    def load(self) -> Image.Image:
        try:
            return Image.fromarray(read_image(self._filepath.parent, self._filepath.name))
        except ValueError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: Any) -> None:
        with replacing(self._filepath) as path:
            if isinstance(data, Image.Image):
                data.save(path, format="PNG")
            else:
                data.savefig(path, format="png", dpi=120, bbox_inches="tight")

    def preview(self) -> ImagePreview:
        """A small copy, for Kedro-Viz."""
        image = self.load()
        image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return base64.b64encode(buffer.getvalue()).decode("ascii")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class PageDataset(AbstractDataset[Path, str]):
    """An HTML page that its node writes itself; saved is its path, loaded its text."""

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(check_local(filepath))
        self.metadata = metadata

    def load(self) -> str:
        return self._filepath.read_text("utf-8")

    def save(self, data: Path) -> None:
        if data.resolve() != self._filepath.resolve():
            raise DatasetError(f"the page was written to {data}, not to {self._filepath}")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class FolderDataset(AbstractDataset[None, Path]):
    """The path of a folder, for nodes that fill it or walk it."""

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(check_local(filepath))
        self.metadata = metadata

    def load(self) -> Path:
        return self._filepath

    def save(self, data: None) -> None:
        raise DatasetError(f"{self._filepath} is a folder: nodes write into it themselves")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
