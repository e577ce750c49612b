"""Codes of a weight on a fixed grid of scales and zero points, given the second moments of its inputs.

All minimise tr((Q - W) M (Q - W)^T), the layer's mean squared output error, with M = E[x x^T]; rows with
different inputs (the groups of a Conv) are one batch. Data, images and autodiff are not needed for that.
"""
