"""Starts the page: ``python -m amodal_pipeline.demo --model data/06_models/scenes/pcnet_m``."""

import argparse


def main() -> None:
    """Run the page on this computer until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m amodal_pipeline.demo",
        description="Complete objects of pictures in the browser, on this computer only.",
    )
    parser.add_argument("--model", default="photographs", help="folder of a completer's checkpoint")
    parser.add_argument(
        "--detector", help='folder of a detector that finds objects, or "torchvision"'
    )
    parser.add_argument("--port", type=int, default=7860)
    asked = parser.parse_args()
    try:
        from amodal_pipeline.demo.page import load_model, serve

        serve(load_model(asked.model, asked.detector), asked.port)
    except ValueError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
