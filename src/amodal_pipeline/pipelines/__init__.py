"""One package a job: pipeline.py is wiring, nodes.py calls the rooms that do the work."""
