"""Settings of the Kedro project.

``python -m amodal_pipeline.settings orcnn.training --env kins`` prints values of a configuration
and the file that sets each.
"""

from amodal_pipeline.cores import share_cores

# Must run before torch is imported.
share_cores()

import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

from kedro import KedroDeprecationWarning  # noqa: E402
from kedro.utils import find_kedro_project  # noqa: E402

from amodal_pipeline.configuration import LayeredConfigLoader, main  # noqa: E402
from amodal_pipeline.hooks import (  # noqa: E402
    FreshnessHook,
    InterruptHook,
    StartHook,
    SummaryHook,
    TrackingHook,
)
from amodal_pipeline.shipped import ROOT  # noqa: E402

# `--pipeline` is what all pages say. Kedro imports these settings before it warns of it.
warnings.filterwarnings("ignore", "Option '--pipeline' is deprecated", KedroDeprecationWarning)

# Kedro calls the last hook first: parameters are checked first, the last line of a run is the link
# to its tracking, and signals are caught only if the freshness check lets the run start.
HOOKS = (InterruptHook(), TrackingHook(), SummaryHook(), FreshnessHook(), StartHook())
# Usage statistics: a clone declines them by its .telemetry, which no other folder has. Outside of
# a clone there is no lineage either, for which Kedro-Viz would note how a run went.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
if find_kedro_project(Path.cwd()) is None:
    DISABLE_HOOKS_FOR_PLUGINS += ("kedro-viz",)

CONFIG_LOADER_CLASS = LayeredConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "scenes",
    # An environment overrides single values of a parameter tree, not whole trees.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
    # A file of the working folder comes before that of the package.
    "custom_resolvers": {"shipped": lambda name: name if Path(name).exists() else str(ROOT / name)},
}

if __name__ == "__main__":
    main(**CONFIG_LOADER_ARGS)
