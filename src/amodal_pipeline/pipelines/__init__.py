"""The Kedro pipelines: wiring of nodes, which are functions of the rooms."""
