"""Pictures and pages as Kedro datasets."""

import base64
import io
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview
from PIL import Image

from amodal_pipeline.annotations.images import read_image
from amodal_pipeline.annotations.storage import replacing
from amodal_pipeline.local_paths import check_local

_PREVIEW_SIDE = 1400


class PictureDataset(AbstractDataset[Any, Image.Image]):
    """Save a Pillow image or a matplotlib figure as PNG, and load it as a Pillow image."""

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
        """Return a PNG of at most 1400 pixels per side, in base64, for Kedro-Viz."""
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
    """Check on saving that a node wrote its HTML page to ``filepath``; load the page's text."""

    def __init__(self, *, filepath: str, metadata: dict | None = None) -> None:
        self._filepath = Path(check_local(filepath))
        self.metadata = metadata

    def load(self) -> str:
        return self._filepath.read_text("utf-8")

    def save(self, data: Path) -> None:
        if data.resolve() != self._filepath.resolve():
            raise DatasetError(
                f"the page was written to {data}, but the catalog has it at {self._filepath}: "
                "make the two paths equal"
            )

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
