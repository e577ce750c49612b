"""Checks of a written model."""
