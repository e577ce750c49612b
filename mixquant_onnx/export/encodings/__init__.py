"""How codes, scales and zero points are stored in a model and turned into a tensor again."""
