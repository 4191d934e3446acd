"""Settings of the Kedro project."""

from amodal_pipeline.hooks import FreshnessHook, SummaryHook, TrackingHook

# Hooks run last in, first out: the summary is printed after the tracking has closed its runs.
HOOKS = (SummaryHook(), TrackingHook(), FreshnessHook())

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment changes single values of a parameter tree, not whole trees.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
