"""Settings of the Kedro project; ``python -m amodal_pipeline.settings orcnn.training --env kins``
prints values of a configuration and the file that sets each."""

from amodal_pipeline.cores import share_cores

# Before anything below imports torch.
share_cores()

from amodal_pipeline.configuration import LayeredConfigLoader, main  # noqa: E402
from amodal_pipeline.hooks import (  # noqa: E402
    FreshnessHook,
    InterruptHook,
    StartHook,
    SummaryHook,
    TrackingHook,
)

# Hooks run last in, first out: parameters are checked first, the last line of a run links to what
# the tracking has of it, and signals are caught only where the freshness check lets the run begin.
HOOKS = (InterruptHook(), TrackingHook(), SummaryHook(), FreshnessHook(), StartHook())

CONFIG_LOADER_CLASS = LayeredConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "scenes",
    # An environment changes single values of a parameter tree, not whole trees.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}

if __name__ == "__main__":
    main(**CONFIG_LOADER_ARGS)
