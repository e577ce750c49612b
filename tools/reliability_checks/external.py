"""Part 3: external data in every layout that is bad, and in some that are odd but right."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
from cases import classifier
from onnx import ModelProto, TensorProto

from reliability_checks.command import called, changed, contents
from reliability_checks.reference import disagreement
from reliability_checks.verdict import Failure, Part, Verdict

SECRET = b"what must not be read" * 2000

Layout = Callable[[ModelProto, Path], None]


def _refer(model: ModelProto, **fields: str) -> None:
    """Change fields of the external data of the first tensor; an empty one goes."""
    tensor = _outside(model)[0]
    known = {entry.key: entry.value for entry in tensor.external_data} | fields
    del tensor.external_data[:]
    for key, value in known.items():
        if value:
            tensor.external_data.add(key=key, value=value)


def _outside(model: ModelProto) -> list[TensorProto]:
    return [t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]


def _located(location: str) -> Layout:
    return lambda model, folder: _refer(model, location=location.replace("FOLDER", str(folder)))


def _field(**fields: str) -> Layout:
    return lambda model, folder: _refer(model, **fields)


def _missing(model: ModelProto, folder: Path) -> None:
    (folder / "in.data").unlink()


def _short(model: ModelProto, folder: Path) -> None:
    data = folder / "in.data"
    data.write_bytes(data.read_bytes()[:-100])


def _empty(model: ModelProto, folder: Path) -> None:
    (folder / "in.data").write_bytes(b"")


def _directory(model: ModelProto, folder: Path) -> None:
    (folder / "in.data").unlink()
    (folder / "in.data").mkdir()


def _symbolic(model: ModelProto, folder: Path) -> None:
    (folder / "in.data").unlink()
    (folder / "in.data").symlink_to(folder.parent / "secret")


def _hard(model: ModelProto, folder: Path) -> None:
    (folder / "in.data").unlink()
    os.link(folder.parent / "secret", folder / "in.data")


def _circle(model: ModelProto, folder: Path) -> None:
    (folder / "in.data").unlink()
    (folder / "in.data").symlink_to("in.data")


def _pipe(model: ModelProto, folder: Path) -> None:
    (folder / "in.data").unlink()
    os.mkfifo(folder / "in.data")


def _overlapping(model: ModelProto, folder: Path) -> None:
    for tensor in _outside(model):
        entry = next(e for e in tensor.external_data if e.key == "offset")
        entry.value = "0"


def _both(model: ModelProto, folder: Path) -> None:
    _outside(model)[0].raw_data = bytes(64 * 64 * 4)


def _twice(model: ModelProto, folder: Path) -> None:
    _outside(model)[0].external_data.add(key="location", value="../secret")


def _itself(model: ModelProto, folder: Path) -> None:
    _refer(model, location="in.onnx", offset="0", length="")


def _no_entries(model: ModelProto, folder: Path) -> None:
    del _outside(model)[0].external_data[:]


HUGE = str(1 << 62)
LAYOUTS: Mapping[str, Layout] = {
    "as it is": lambda model, folder: None,
    "missing": _missing,
    "too short": _short,
    "empty": _empty,
    "a folder": _directory,
    "a symbolic link out of the folder": _symbolic,
    "a symbolic link to itself": _circle,
    "a pipe": _pipe,
    "a hard link to another file": _hard,
    "overlapping": _overlapping,
    "inside and outside": _both,
    "the model itself": _itself,
    "two locations": _twice,
    "no entries": _no_entries,
    "absolute": _located("/etc/passwd"),
    "absolute and there": _located("FOLDER/in.data"),
    "..": _located("../secret"),
    "../..": _located("../../../../../../etc/passwd"),
    "a/../..": _located("a/../../secret"),
    "backslashes": _located("..\\secret"),
    ".": _located("."),
    "a name with a zero": _located("in.data\x00x"),
    "a name of 5000 letters": _located("x" * 5000),
    "a line end": _located("in\n.data"),
    "unicode": _located("dätä"),
    "./in.data": _located("./in.data"),
    "a URL": _located("http://localhost/x"),
    "/dev/zero": _located("/dev/zero"),
    "negative offset": _field(offset="-4"),
    "offset at the end": _field(offset="999999"),
    "offset huge": _field(offset=HUGE),
    "offset not a number": _field(offset="four"),
    "offset of 30 digits": _field(offset="9" * 30),
    "offset of 9000 digits": _field(offset="9" * 9000),
    "offset 1e3": _field(offset="1e3"),
    "offset ' 0'": _field(offset=" 0"),
    "negative length": _field(length="-1"),
    "length 0": _field(length="0"),
    "length not a number": _field(length="x"),
    "length too short": _field(length="100"),
    "length too long": _field(length="99999999"),
    "length huge": _field(length=HUGE),
    "no length": _field(length=""),
    "no offset": _field(offset=""),
    "an unknown field": _field(checksum="0", other="1"),
    "no location": _field(location=""),
}
FINE = {"as it is", "an unknown field", "overlapping", "./in.data"}
"""Those that must be written."""
EITHER = {"no length", "no offset", "offset ' 0'", "inside and outside"}
"""Those that may be written: ONNX leaves open what they mean."""

COMMANDS = (("in.onnx", "out.onnx", "--data-free"), ("inspect", "in.onnx"), ("in.onnx", "in.onnx", "--data-free"))


def cases(fast: bool) -> Sequence[str]:
    """Names of layouts, with the number of a command."""
    return [f"{name}:{k}" for k in range(1 if fast else len(COMMANDS)) for name in LAYOUTS]


def check(case: str, folder: Path) -> list[Verdict]:
    """One layout. The model lies in a folder of its own, with another file outside of it."""
    name, number = case.rsplit(":", 1)
    own = folder / "own"
    own.mkdir()
    (folder / "secret").write_bytes(SECRET)
    onnx.save(classifier(), own / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=64)
    model = onnx.load(own / "in.onnx", load_external_data=False)
    LAYOUTS[name](model, own)
    (own / "in.onnx").write_bytes(model.SerializeToString())
    keep = (folder / "copy.onnx").write_bytes(model.SerializeToString())
    before = contents(folder)
    os.chdir(own)
    end = called(COMMANDS[int(number)])
    failures, written = end.failures(), []
    if end.result is not None:
        written = [f"own/{file.name}" for file in end.result.files]
        if int(number) == 2:
            written += ["own/in.data"]
        if name not in FINE | EITHER:
            failures.append(Failure(kind="wrong", detail="was taken for a valid model"))
        elif int(number) == 0 and keep:
            wrong = disagreement(own / "in.onnx", end.result)[1]
            failures += [] if wrong is None else [Failure(kind="wrong", detail=wrong)]
    elif end.code and name in FINE:
        failures.append(Failure(kind="wrong", detail=f"is refused: {end.told}"))
    failures += changed(before, contents(folder), written)
    return [Verdict(case=case, outcome=end.outcome, failures=tuple(failures))]


PART = Part(name="external", title="external data in bad layouts", cases=cases, check=check)
