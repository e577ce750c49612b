"""The parts of the harness by name."""

from __future__ import annotations

from collections.abc import Mapping

from reliability_checks import (
    corpus,
    determinism,
    external,
    faults,
    fuzzing,
    generated,
    hostile_files,
    mutants,
    releases,
)
from reliability_checks.verdict import Part

PARTS: Mapping[str, Part] = {
    module.PART.name: module.PART
    for module in (generated, mutants, external, faults, hostile_files, corpus, determinism, releases, fuzzing)
}
