"""Procedural 3D scenes with exact amodal masks: the embedded data set."""
