"""Weights on disk: strict loading and saving, with the reference's key names in every file."""

from birefnet.weights.load import load_model, load_weights
from birefnet.weights.save import save_model

__all__ = ["load_model", "load_weights", "save_model"]
