"""What a network is given: batches of images, of objects and of pairs, by iteration."""
