"""Photographs with exact amodal masks, composed from any COCO instance data set."""

from amodal_pipeline.compose.config import ComposeConfig

__all__ = ["ComposeConfig"]
