"""Photos with masks: finding and checking the pairs, packing them for training, augmenting batches of them."""
