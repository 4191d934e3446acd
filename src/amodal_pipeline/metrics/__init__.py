"""Pure functions from (annotations, predictions) to rows of results."""
