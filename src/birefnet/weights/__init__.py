"""Weights on disk: strict loading and saving, with the reference's key names in every file."""
