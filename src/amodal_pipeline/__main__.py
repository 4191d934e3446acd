"""``amodal-pipeline``, or ``python -m amodal_pipeline``: ``kedro run`` in any folder."""

import os
import sys
from pathlib import Path
from typing import Any

from amodal_pipeline.cores import share_cores
from amodal_pipeline.shipped import CONF


def main(*args: Any, **kwargs: Any) -> Any:
    share_cores()
    if not Path("conf/logging.yml").exists():
        os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(CONF / "logging.yml"))
    # Kedro reads how to log when it is imported.
    from kedro.framework.cli.utils import find_run_command
    from kedro.framework.project import configure_project

    package = Path(__file__).parent.name
    configure_project(package)
    interactive = hasattr(sys, "ps1")
    kwargs["standalone_mode"] = not interactive
    return find_run_command(package)(*args, **kwargs)


if __name__ == "__main__":
    main()
