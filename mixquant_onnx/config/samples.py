"""The options of data: where rows come from, and how texts become rows."""

from __future__ import annotations

from dataclasses import dataclass

from mixquant_onnx.config import parsing
from mixquant_onnx.config.option import option
from mixquant_onnx.config.parsing import Labels, Rows, Tokenizer
from mixquant_onnx.errors import OptionError

_ROWS = "str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None"
_LONGEST = 1_000_000
"""Most tokens of a row; a guard against typing errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """The samples for calibration and evaluation."""

    data: Rows | None = option(
        None, ".npz with the inputs by name, or a folder of them", accepts=_ROWS, metavar="PATH", convert=parsing.rows
    )
    tokenizer: Tokenizer | None = option(
        None, "Python code that makes token ids of a text, package.module:function or file.py:function; --data and "
        "--eval-data may be text files then", accepts="str | Callable[[str], Sequence[int]] | None",
        metavar="FUNCTION", convert=parsing.tokenizer,
    )  # fmt: skip
    sequence_length: int | None = option(
        None, "tokens of a row: texts are cut, longer sequences are truncated", accepts="int | None", metavar="N",
        shown="of a text: what the model fixes, or 256",
        convert=parsing.number("--sequence-length", 1, _LONGEST, f"tokens, from 1 to {_LONGEST}", whole=True),
    )  # fmt: skip
    labels: Labels | None = option(
        None, "classes of the rows of --data (or its key labels)", accepts="str | Path | Iterable[int] | None",
        metavar="FILE", convert=parsing.labels,
    )  # fmt: skip
    eval_data: Rows | None = option(
        None, "rows to judge by, as --data, with labels in its key labels; else some rows of --data are held back",
        accepts=_ROWS, metavar="PATH", convert=parsing.rows,
    )  # fmt: skip
    data_free: bool = option(
        False, "without --data: no proxy inputs (photographs, texts, sounds that stand in for yours), only noise",
        accepts="bool", kind="switch",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.labels is not None and self.data is None:
            raise OptionError("--labels needs --data")
        for name, value in (("--tokenizer", self.tokenizer), ("--sequence-length", self.sequence_length)):
            if value is not None and self.data is None and self.eval_data is None:
                raise OptionError(f"{name} needs --data")
