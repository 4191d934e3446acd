"""VRSP: "Amodal Segmentation Based on Visible Region Segmentation and Shape Prior", AAAI 2021.

Its shape prior is learnt first, from masks alone: an auto-encoder (:mod:`.auto_encoder`) and a
codebook of shapes per category (:mod:`.codebook`).
"""
