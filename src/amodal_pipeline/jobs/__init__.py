"""What a user asks for, as plain functions: no Kedro. Each is a node of the pipelines."""
