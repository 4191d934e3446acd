"""Settings of the Kedro project.

``python -m amodal_pipeline.settings orcnn.training --env kins`` prints values of a configuration
and the file that sets each.
"""

from amodal_pipeline.cores import share_cores

# Must run before torch is imported.
share_cores()

from amodal_pipeline.configuration import LayeredConfigLoader, main  # noqa: E402
from amodal_pipeline.hooks import (  # noqa: E402
    FreshnessHook,
    InterruptHook,
    StartHook,
    SummaryHook,
    TrackingHook,
)

# Kedro calls the last hook first: parameters are checked first, the last line of a run is the link
# to its tracking, and signals are caught only if the freshness check lets the run start.
HOOKS = (InterruptHook(), TrackingHook(), SummaryHook(), FreshnessHook(), StartHook())

CONFIG_LOADER_CLASS = LayeredConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "scenes",
    # An environment overrides single values of a parameter tree, not whole trees.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}

if __name__ == "__main__":
    main(**CONFIG_LOADER_ARGS)
