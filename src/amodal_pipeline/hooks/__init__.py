"""Kedro hooks: checks before a run, tracking, interrupts, freshness, and the summary at its end."""

from amodal_pipeline.hooks.freshness import FreshnessHook
from amodal_pipeline.hooks.interrupts import InterruptHook
from amodal_pipeline.hooks.start import StartHook
from amodal_pipeline.hooks.summary import SummaryHook
from amodal_pipeline.hooks.tracking import TrackingHook

__all__ = ["FreshnessHook", "InterruptHook", "StartHook", "SummaryHook", "TrackingHook"]
