"""Settings of the Kedro project."""

from amodal_pipeline.hooks import FreshnessHook, InterruptHook, SummaryHook, TrackingHook

# Hooks run last in, first out: the last line of a run links to what the tracking has of it, and
# signals are caught only where the freshness check has let the run begin.
HOOKS = (InterruptHook(), TrackingHook(), SummaryHook(), FreshnessHook())

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment changes single values of a parameter tree, not whole trees.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
