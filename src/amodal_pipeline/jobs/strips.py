"""The picture of a trained completer of clips: objects of the validation split over time."""

from __future__ import annotations

import dataclasses

from PIL import Image
from torch import nn

from amodal_pipeline.annotations import AmodalAnnotations
from amodal_pipeline.annotations.known_objects import true_objects
from amodal_pipeline.methods.contract import job_name
from amodal_pipeline.methods.training_config import InferenceConfig


def strips(model: nn.Module, annotations: AmodalAnnotations, count: int) -> Image.Image:
    """Complete and draw objects of videos over time: frames, visible, completed, truth.

    Chosen are the objects that are partly hidden in most frames. The layout is that of C2F-Seg's
    Fig. 7.

    Args:
        model: any that :func:`~..training.completing_clips.complete` takes.
        annotations: the images and their truth.
        count: number of objects.

    Returns:
        A sheet; without rows where the split has no such object.
    """
    from amodal_pipeline.training.completing_clips import complete
    from amodal_pipeline.visuals.strips import partly_hidden_tracks, truth_strips

    tracks = partly_hidden_tracks(annotations, count)
    objects = true_objects(annotations)
    table = objects.table.predictions
    wanted = table["track_id"].isin(tracks).to_numpy(dtype=bool)
    shown = dataclasses.replace(objects.table, predictions=table[wanted].reset_index(drop=True))
    objects = dataclasses.replace(objects, table=shown)
    found = complete(model, objects, InferenceConfig(workers=0), method=job_name(model.config))
    return truth_strips(annotations, found, tracks)
