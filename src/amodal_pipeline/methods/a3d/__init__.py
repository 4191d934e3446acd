"""A3D: "2D Amodal Instance Segmentation Guided by 3D Shape Prior", ECCV 2022.

Meshes, cameras and the soft rasteriser are in :mod:`amodal_pipeline.layers`.
"""
