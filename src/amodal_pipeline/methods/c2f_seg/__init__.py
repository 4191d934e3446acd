"""C2F-Seg: "Coarse-to-Fine Amodal Segmentation with Shape Prior", ICCV 2023, for images.

The mask tokenizer (:mod:`.tokenizer`) is trained first, on masks only. The completer
(:mod:`.method`) predicts the tokens of the amodal mask, decodes them and refines the decoded mask.
"""
