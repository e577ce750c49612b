"""NumPy only: what a model's outputs hold, and how far one set of them is from another."""
