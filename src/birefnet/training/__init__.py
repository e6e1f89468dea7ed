"""Training: a compact trainer for small networks on one device."""
