"""VRSP: "Amodal Segmentation Based on Visible Region Segmentation and Shape Prior", AAAI 2021.

Its shape prior is learnt first, from masks alone: an auto-encoder (:mod:`.auto_encoder`) and a
codebook of shapes a category (:mod:`.codebook`), kept together on disk (:mod:`.stored`).
"""
