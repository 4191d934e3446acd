"""The mask tokenizer of C2F-Seg, learnt from the masks of a data set."""

from amodal_pipeline.pipelines.mask_tokenizer.pipeline import create_pipeline

__all__ = ["create_pipeline"]
