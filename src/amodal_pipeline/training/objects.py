"""Batches of objects for completers: what is seen of each, within its surroundings.

Pure functions of (seed, iteration) as :mod:`.data` has them for detectors.
"""


from torch.utils.data import Dataset

from amodal_pipeline.annotations import AmodalAnnotations, Predictions
from amodal_pipeline.methods.configs import CorruptionConfig, CropConfig
from amodal_pipeline.training.data import TrainingBatch


class ObjectBatches(Dataset):
    """Item ``i`` is the batch of iteration ``i``: objects that are not ignored and have a visible
    part, every one once before any comes again.

    ``images`` uint8 [N, 3, image_side, image_side] (no pixels, [N, 3, 0, 0], without images).
    ``targets``: "input", the visible mask that the method is given (true or predicted, and
    corrupted), "visible" and "amodal", the truth: uint8 [N, side, side] of 0 and 1; "labels" int64
    [N], 1-based.
    """

    def __init__(
        self,
        annotations: AmodalAnnotations,
        crop: CropConfig,
        batch_size: int,
        seed: int,
        *,
        corruption: CorruptionConfig | None = None,
        enlargement: tuple[float, float] | None = None,
        detected: Predictions | None = None,
        predicted_share: float = 0.0,
        with_images: bool = True,
    ) -> None:
        raise NotImplementedError

    def __getitem__(self, iteration: int) -> TrainingBatch:
        raise NotImplementedError
