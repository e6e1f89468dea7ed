"""The network itself: encoder, decoder, the whole of BiRefNet, and how it is saved and loaded."""

from birefnet.model.birefnet import BiRefNet, TrainOutput
from birefnet.model.decoder import DecoderOutput
from birefnet.model.encoder import Channels

__all__ = ["BiRefNet", "Channels", "DecoderOutput", "TrainOutput", "load_model", "save_model"]

load_model = BiRefNet.load
save_model = BiRefNet.save
