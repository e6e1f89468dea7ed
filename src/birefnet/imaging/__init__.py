"""Photos in and masks out, without torch: reading, preparing for the network, and the way back."""
