"""Procedural 3D scenes with exact amodal truth: the embedded data set."""
