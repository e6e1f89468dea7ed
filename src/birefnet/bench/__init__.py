"""How fast and how large models are on this machine, each in a process of its own, beside another of the same run."""
