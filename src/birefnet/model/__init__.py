"""The network itself: encoder, decoder and the whole of BiRefNet."""

from birefnet.model.birefnet import BiRefNet, TrainOutput

__all__ = ["BiRefNet", "TrainOutput"]
