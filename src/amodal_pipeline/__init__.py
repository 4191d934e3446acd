"""Amodal segmentation methods under one roof: one table, one training loop, one evaluator."""

__version__ = "0.1.0"
