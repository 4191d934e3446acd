"""The one training loop, its data, schedules and state, and inference over a data set."""
