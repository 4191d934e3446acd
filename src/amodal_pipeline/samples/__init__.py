"""Training batches of images, objects and pairs, by iteration."""
