"""A page in the browser that completes objects of pictures: ``python -m amodal_pipeline.demo``.

It needs the extra ``demo``. gradio is imported in :mod:`.page` only.
"""
