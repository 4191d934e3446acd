"""The page, made with gradio: the only module that imports it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from amodal_pipeline.demo import marking
from amodal_pipeline.demo.scene import Scene
from amodal_pipeline.predictor import Predictor

# Before gradio is imported: nothing is reported to anyone.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

try:
    import cv2  # noqa: F401
    import gradio as gr
except ImportError as error:
    raise ValueError(
        f"the page needs {error.name}, which is not installed: pip install 'amodal-pipeline[demo]'"
    ) from error

_HERE = Path(__file__).parent
_ALL = "all"
_LARGEST_FILE = "25mb"
_BUTTONS = ["download", "fullscreen"]
_PNG: dict[str, Any] = {"format": "png", "interactive": False}
_MARKS = {"A box: its outline is found": "box", "An outline drawn by hand": "outline"}
_INTRO = """# Whole objects
Mark what you see of an object **and of what is in front of it**, front to back: drag a box over
each, or draw its outline. The hidden parts are striped.
"""
# What a browser may load: this page's own files. gradio's templates are compiled in the browser.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'"
)
_CSS = """
.cut img { background: repeating-conic-gradient(#d8dbe0 0 25%, #fff 0 50%) 50% / 18px 18px; }
.gradio-container { max-width: 1280px !important; margin: auto; }
"""


def load_model(folder: str, detector: str | None = None) -> Predictor:
    """Return the completer of the page, and with it the detector that finds objects.

    Args:
        folder: what :func:`~amodal_pipeline.front.load` takes.
        detector: the same.

    Raises:
        ValueError: there is no such checkpoint, or it completes nothing by visible masks alone.
    """
    import amodal_pipeline as ap

    model = ap.load(folder, detector=detector)
    config = model.module.config
    if config.DESCRIPTION.task != "complete" or config.DESCRIPTION.needs_boxes:
        raise ValueError(
            f"{model.name} does not complete visible masks: name the folder of pcnet_m, "
            "plain_completer or c2f_seg"
        )
    return model


def build(model: Predictor, examples: Sequence[Scene]) -> gr.Blocks:
    """Return the page; the first example is shown at the start."""
    with gr.Blocks(
        title="Whole objects", analytics_enabled=False, delete_cache=(600, 3600)
    ) as page:
        state = gr.State(None, time_to_live=3600)
        gr.Markdown(_INTRO)
        with gr.Row(equal_height=True):
            picture = gr.File(
                label="Your picture", file_types=["image"], height=170, scale=2, elem_id="picture"
            )
            gallery = gr.Gallery(
                [Image.fromarray(each.picture) for each in examples],
                label="Examples",
                columns=len(examples),
                height=170,
                object_fit="cover",
                allow_preview=False,
                interactive=False,
                buttons=[],
                scale=3,
                visible=len(examples) > 0,
                elem_id="examples",
            )
        with gr.Row():
            with gr.Column():
                how = gr.Radio(
                    list(_MARKS.items()), value="box", label="Drag over an object to mark"
                )
                board = gr.HTML(
                    html_template=_text("board.html"),
                    css_template=_text("board.css"),
                    js_on_load=_text("board.js"),
                    mode="box",
                    elem_id="board",
                )
                with gr.Row():
                    undo = gr.Button("Undo the last", size="sm")
                    clear = gr.Button("Remove all", size="sm")
                    mask = gr.UploadButton(
                        "Masks from a PNG", size="sm", file_types=[".png"], elem_id="mask"
                    )
                    find = gr.Button("Find objects", size="sm", visible=model.detector is not None)
            with gr.Column():
                chosen = gr.Radio([_ALL], value=_ALL, label="Look at", elem_id="chosen")
                drawn = gr.Image(
                    label="Whole masks", show_label=False, buttons=_BUTTONS, elem_id="drawn", **_PNG
                )
                with gr.Row():
                    cut = gr.Image(
                        label="Cut out (RGBA)",
                        image_mode="RGBA",
                        buttons=_BUTTONS,
                        height=250,
                        elem_classes="cut",
                        **_PNG,
                    )
                    words = gr.Markdown(elem_id="words")
        shown = [state, board, chosen, drawn, cut, words]
        shared: dict[str, Any] = {
            "concurrency_id": "model",  # one at a time
            "api_visibility": "private",
            "show_progress_on": drawn,
        }

        def answer(change: Callable[..., Scene]) -> Callable[..., list]:
            """Return a handler: the scene is changed and completed; an error is shown."""

            def changed(*given: Any) -> list:
                try:
                    scene = change(*given).completed(model)
                except ValueError as error:
                    raise gr.Error(str(error), duration=8, print_exception=False) from error
                return [scene, *_views(scene)]

            return changed

        def drag(scene: Scene | None, kind: str, event: gr.EventData) -> list:
            drawn = event._data.get("points") if isinstance(event._data, dict) else None
            return answer(_marked)(scene, kind, drawn)

        board.drawn(drag, [state, how], shown, **shared)
        how.change(lambda kind: gr.HTML(mode=kind), how, board, api_visibility="private")
        picture.upload(answer(_of_file), picture, shown, **shared)
        mask.upload(answer(_with_masks), [state, mask], shown, **shared)
        undo.click(answer(lambda scene: _known(scene).without_last()), state, shown, **shared)
        clear.click(answer(_emptied), state, shown, **shared)
        find.click(
            answer(lambda scene: _emptied(scene).with_found(model.detector)), state, shown, **shared
        )
        chosen.input(_looked_at, [state, chosen], [drawn, cut, words], **shared)
        if examples:

            def take(event: gr.SelectData) -> list:
                return answer(lambda at: examples[at])(event.index)

            gallery.select(take, None, shown, **shared)
            page.load(answer(lambda: examples[0]), None, shown, **shared)
    return page


def application(model: Predictor, examples: Sequence[Scene]) -> Any:
    """Return the page as an ASGI application that answers this computer only."""
    from fastapi import FastAPI, Request
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Another page cannot reach this one under a name of its own.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])

    @app.middleware("http")
    async def with_policy(request: Request, answer: Callable) -> Any:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.mount_gradio_app(
        app,
        build(model, examples),
        path="/",
        server_name="127.0.0.1",
        footer_links=[],
        show_error=True,
        max_file_size=_LARGEST_FILE,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Soft(primary_hue="teal", neutral_hue="slate", **fonts),
        css=_CSS,
    )


def serve(model: Predictor, port: int) -> None:
    """Run the page at 127.0.0.1 until Ctrl-C; uploaded files are removed then."""
    import uvicorn

    from amodal_pipeline.demo.examples import rendered

    with TemporaryDirectory(prefix="amodal_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = application(model, rendered())
        print(f"{model.name} completes objects at http://127.0.0.1:{port} (Ctrl-C ends it)")
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _known(scene: Scene | None) -> Scene:
    if scene is None:
        raise ValueError("drop a picture first, or take an example")
    return scene


def _of_file(path: str) -> Scene:
    return Scene(*marking.read_picture(Path(path)))


def _with_masks(scene: Scene | None, path: str) -> Scene:
    scene = _known(scene)
    masks = marking.masks_in_file(Path(path), scene.stored, scene.picture.shape[:2])
    return scene.with_objects(masks, [""] * len(masks))


def _marked(scene: Scene | None, kind: str, drawn: object) -> Scene:
    scene, points = _known(scene), marking.points_of(drawn)
    size = scene.picture.shape[:2]
    if kind == "outline":
        mask = marking.within_outline(points, size)
    else:
        box = marking.box_around(points, size)
        mask = marking.object_in_box(scene.picture, box, scene.taken)
    return scene.with_objects([mask], [""])


def _emptied(scene: Scene | None) -> Scene:
    scene = _known(scene)
    return Scene(scene.picture, scene.stored)


def _views(scene: Scene) -> list:
    """Return what the board, the choice of an object, and the views of all objects show."""
    data = io.BytesIO()
    Image.fromarray(scene.marked()).save(data, "JPEG", quality=90)
    picture = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    choice = gr.Radio([_ALL, *scene.titles], value=_ALL)
    return [picture, choice, *_looked_at(scene, _ALL)]


def _looked_at(scene: Scene | None, title: str) -> list:
    """Return the drawn picture, the cut-out and the text for one object, or for all."""
    if scene is None or scene.whole is None:
        return [None if scene is None else scene.picture, None, "No object is marked yet."]
    at = scene.titles.index(title) if title in scene.titles else None
    most_hidden = max(range(len(scene.masks)), key=scene.hidden_share)
    return [scene.drawn(at), scene.cut(most_hidden if at is None else at), _words(scene, at)]


def _words(scene: Scene, chosen: int | None) -> str:
    titles = scene.titles
    rows = range(len(titles)) if chosen is None else [chosen]
    hidden = [f"- {titles[i]}: {100 * scene.hidden_share(i):.0f} % hidden" for i in rows]
    pairs = [pair for pair in scene.order.tolist() if chosen is None or chosen in pair]
    order = [f"- {titles[front]} is in front of {titles[back]}" for front, back in pairs]
    return "\n".join(["**Hidden**", "", *hidden, "", "**In front**", "", *(order or ["- nothing"])])
