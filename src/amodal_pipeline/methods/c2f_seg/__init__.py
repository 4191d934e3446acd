"""C2F-Seg: "Coarse-to-Fine Amodal Segmentation with Shape Prior", ICCV 2023, for images.

Its mask tokenizer (:mod:`.tokenizer`) is learnt first, from masks alone; the completer
(:mod:`.method`) predicts the tokens of the amodal mask and refines what they decode to.
"""
