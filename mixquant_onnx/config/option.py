"""An option as a field of a dataclass, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

from mixquant_onnx.errors import OptionError

Kind = Literal["value", "list", "switch", "off"]
"""On the command line: takes a value; takes one, and may be given again; turns on; turns off what is on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option of a run.

    `keyword` is that of the Python interface, `flag` that of the command line, `field` where the value is kept;
    `accepts` is the type of the keyword and `shown` the default, both as text. `convert` makes the value of either
    into that of the field and raises OptionError.
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
    """A field of a stage's dataclass that is an option; `flag` and `keyword` where they are not the field's name."""
    made = {
        "help": help, "accepts": accepts, "flag": flag, "keyword": keyword, "shown": shown, "kind": kind,
        "metavar": metavar, "choices": tuple(choices), "convert": convert,
    }  # fmt: skip
    return field(default=default, metadata={"option": made})


def options_in(stage: Any) -> list[Option]:
    """The options of the dataclass `stage`, in order."""
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
        if value not in choices:
            raise OptionError(f"{flag} '{value}' is not known; use {', '.join(choices[:-1])} or {choices[-1]}")
        return str(value)

    return convert
