"""Rounding of all weights of a block, learned together by gradient descent. Needs torch (extra `reconstruct`).

In: a `ReconstructionTask` (blocks, calibration data) and initial codes. Out: codes of each block's weights. To add a
method, add a file with a `Reconstructor`, and a row in `quantization/methods.py`. Only brecq, fisher, learning,
soft_rounding and torch_operators import torch.
"""
