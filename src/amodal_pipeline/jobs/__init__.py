"""What a user asks for, as plain functions without Kedro. The pipelines' nodes call them."""
