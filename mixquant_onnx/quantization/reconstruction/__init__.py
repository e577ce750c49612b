"""Reconstruction of whole blocks by gradient descent. The only part that uses torch (extra `reconstruct`)."""
