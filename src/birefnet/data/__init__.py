"""Photos with masks: finding the pairs, packing them for training, augmenting batches of them."""

from birefnet.data.augment import Augmentation, Batch, augment
from birefnet.data.cache import Pack, load_pack
from birefnet.data.pairs import Pair, find_pairs

__all__ = ["Augmentation", "Batch", "Pack", "Pair", "augment", "find_pairs", "load_pack"]
