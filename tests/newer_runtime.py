"""Tests that need a newer onnxruntime than Python 3.10 has (1.23), and why."""

from __future__ import annotations

OPSETS = "opset 24 and its 2-bit type, and opset 25, are of later releases"
KERNELS = "products are fused from 1.25 on, on older releases weights are folded"
ABORTS = "this release aborts the process while it optimizes the graph"
RUNS = "this release fails while it runs the graph"

NEEDED: dict[str, tuple[tuple[int, int], str]] = {
    "test_types_below_eight_bits_are_used_from_their_opset_on[2-24-": ((1, 25), OPSETS),
    "test_a_weight_behind_dequantize_linear_is_its_dequantized_codes[packed where it pays-25-": ((1, 25), OPSETS),
    "test_a_weight_behind_dequantize_linear_is_its_dequantized_codes[all packed-25-": ((1, 25), OPSETS),
    "test_gemm_with_trans_b_becomes_a_fused_matmul": ((1, 25), KERNELS),
    "test_a_large_weight_of_one_plain_matmul_is_fused": ((1, 25), KERNELS),
    "test_by_default_a_product_is_fused_where_the_model_tells_of_one_row": ((1, 25), KERNELS),
    "test_the_summary_says_where_the_claim_holds": ((1, 25), KERNELS),
    "test_the_graph_of_a_report_is_quantized_and_proved[functions in functions-qdq]": ((1, 25), ABORTS),
    "test_the_graph_of_a_report_is_written_in_any_width[functions in functions-qdq]": ((1, 25), ABORTS),
    "test_a_weight_is_followed_to_where_it_is_read[through ": ((1, 25), ABORTS),
    "test_a_weight_behind_a_chain_is_quantized_where_it_is_stored[Transpose-channel-qdq]": ((1, 25), ABORTS),
    "test_a_graph_with_quantized_activations_is_proved[qdq-False]": ((1, 25), RUNS),
    "test_a_weight_passed_to_one_overload_is_judged_by_that_one": ((1, 25), RUNS),
}
"""The oldest release by the start of a test's name."""


def reason_to_skip(name: str, installed: str) -> str | None:
    """Why a test cannot run.

    Args:
        name: Its name with parameters.
        installed: The installed release of onnxruntime.

    Returns:
        The reason; None where it can.
    """
    release = tuple(int(part) for part in installed.split(".")[:2])
    for start, (needed, reason) in NEEDED.items():
        if name.startswith(start) and release < needed:
            return f"onnxruntime {installed}: {reason}"
    return None
