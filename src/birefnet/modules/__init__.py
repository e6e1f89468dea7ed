"""Building blocks of the network, one idea a file; each takes plain arguments and knows no configuration."""
