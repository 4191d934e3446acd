"""Settings of the Kedro project."""

from amodal_pipeline.cores import share_cores

# Before anything below imports torch.
share_cores()

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

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment changes single values of a parameter tree, not whole trees.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
