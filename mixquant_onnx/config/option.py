"""Options as fields of dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from mixquant_onnx.errors import check_choice

Kind = Literal["value", "list", "switch", "off"]
"""On the command line: takes a value; takes a value and may be repeated; turns on; turns off what is on by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option of a run.

    Attributes:
        keyword: Name in the Python interface.
        flag: Name on the command line.
        field: Name of the dataclass field.
        help: Text of the command line and of docs/options.md.
        accepts: Type of the keyword, as text.
        shown: The default, as text.
        default: Value of the field if the option is not given.
        kind: Form on the command line.
        metavar: Placeholder for the value in the help.
        choices: Allowed values; empty for any.
        convert: Converts a value of either interface to that of the field; raises OptionError.
    """

    keyword: str
    flag: str
    field: str
    help: str
    accepts: str
    shown: str
    default: Any
    kind: Kind
    metavar: str | None
    choices: tuple[str, ...]
    convert: Callable[[Any], Any]


def option(
    default: Any,
    help: str,
    *,
    accepts: str,
    flag: str = "",
    keyword: str = "",
    shown: str | None = None,
    kind: Kind = "value",
    metavar: str | None = None,
    choices: Sequence[str] = (),
    convert: Callable[[Any], Any] | None = None,
) -> Any:
    """A dataclass field that is an option.

    Args:
        default: Value of the field.
        help: Text of the command line and of docs/options.md.
        accepts: Type of the keyword, as text.
        flag: Name on the command line; "" for the keyword with dashes.
        keyword: Name in the Python interface; "" for the name of the field.
        shown: The default, as text; None for its `str`.
        kind: Form on the command line.
        metavar: Placeholder for the value in the help.
        choices: Allowed values; empty for any.
        convert: Converts and checks a value; None to check `choices` alone.

    Returns:
        A `dataclasses.field`.
    """
    made = {
        "help": help, "accepts": accepts, "flag": flag, "keyword": keyword, "shown": shown, "kind": kind,
        "metavar": metavar, "choices": tuple(choices), "convert": convert,
    }  # fmt: skip
    return field(default=default, metadata={"option": made})


def options_in(stage: Any) -> list[Option]:
    """The options of a dataclass, in order.

    Args:
        stage: The dataclass.

    Returns:
        One entry for each field made by `option`.
    """
    return [_option(f) for f in fields(stage) if "option" in f.metadata]


def _option(found: Field[Any]) -> Option:
    made = dict(found.metadata["option"])
    keyword = made.pop("keyword") or found.name
    flag = made.pop("flag") or "--" + keyword.replace("_", "-")
    shown = made.pop("shown")
    convert = made.pop("convert") or (_one_of(flag, made["choices"]) if made["choices"] else _same)
    assert found.default is not MISSING
    return Option(
        keyword=keyword,
        flag=flag,
        field=found.name,
        shown=str(found.default) if shown is None else shown,
        default=found.default,
        convert=convert,
        **made,
    )


def _same(value: Any) -> Any:
    return value


def _one_of(flag: str, choices: tuple[str, ...]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        check_choice(flag, value, choices)
        return str(value)

    return convert
