"""One Kedro dataset per method, for jobs that find out while they run which methods exist."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from kedro.io import AbstractDataset, DatasetError


class PerMethodDataset(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """Save a mapping from method to value, each value as a dataset of its own.

    ``dataset`` is the catalog entry of each, with ``{method}`` in ``filepath`` for the method's
    name. A run may save several times; loading returns all that this run has saved.
    """

    def __init__(self, *, dataset: dict[str, Any], metadata: dict | None = None) -> None:
        self._dataset = dataset
        self.metadata = metadata
        self._saved: dict[str, AbstractDataset] | None = None

    def save(self, data: dict[str, Any]) -> None:
        self._saved = self._saved or {}
        for method, value in data.items():
            self._saved[method] = self.of(method)
            self._saved[method].save(value)

    def load(self) -> dict[str, Any]:
        if self._saved is None:
            raise DatasetError(
                f"{self._dataset['filepath']}: nothing was saved in this run: run the node that "
                "saves it too"
            )
        return {method: dataset.load() for method, dataset in self._saved.items()}

    def of(self, method: str) -> AbstractDataset:
        """Return the dataset of one method."""
        entry = deepcopy(self._dataset)
        entry["filepath"] = entry["filepath"].replace("{method}", method)
        return AbstractDataset.from_config(method, entry)

    def _exists(self) -> bool:
        return bool(self._saved) and all(d.exists() for d in self._saved.values())

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._dataset["filepath"]}
