"""`mixquant-onnx diff A.json B.json`: what differs between two plans."""

from __future__ import annotations

from collections.abc import Sequence

from mixquant_onnx.cli.parser import Parser, paths_in

DIFFERENT = 1
"""Exit code where the plans differ, as of the command diff."""


def parser() -> Parser:
    """The parser of `diff`."""
    made = Parser(
        prog="mixquant-onnx diff",
        usage="mixquant-onnx diff A.json B.json",
        epilog="example:\n  mixquant-onnx diff reviewed.json new.json",
        description="Show what differs between two plans of --plan. Exit code 0: nothing; 1: something.",
    )
    made.add_argument("paths", nargs="*", metavar="A.json B.json")
    made.add_debug()
    return made


def main(arguments: Sequence[str]) -> int:
    """Print the differences.

    Args:
        arguments: Command line without the name of the command.

    Returns:
        The exit code.

    Raises:
        PlanError: A file is not a plan.
    """
    args = parser().parse_intermixed_args(list(arguments))
    first, second = paths_in(args, 2, "mixquant-onnx diff")
    from mixquant_onnx.planning.plan_difference import difference
    from mixquant_onnx.planning.plan_file import read_plan

    found = difference(read_plan(first), read_plan(second))
    if found.apart:
        print("the plans are of different models: they share no weight")
    for group in (found.settings, found.weights):
        for name, (before, after) in group.items():
            print(f"{name}: {before} -> {after}")
    return 0 if found.empty else DIFFERENT
