"""The network itself: encoder, decoder, the whole of BiRefNet, and how it is saved and loaded."""

from birefnet.model.birefnet import BiRefNet, TrainOutput

__all__ = ["BiRefNet", "TrainOutput", "load_model", "save_model"]

load_model = BiRefNet.load
save_model = BiRefNet.save
