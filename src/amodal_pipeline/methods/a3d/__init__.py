"""A3D: "2D Amodal Instance Segmentation Guided by 3D Shape Prior", ECCV 2022.

The geometry is in :mod:`amodal_pipeline.layers`: meshes, cameras, and the soft rasteriser.
"""
