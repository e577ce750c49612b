"""Part 5: data, plans, tables and checkpoints that are hostile or damaged, and models with odd names."""

from __future__ import annotations

import io
import json
import os
import shlex
import sqlite3
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from cases import classifier

from reliability_checks.command import Ended, called, changed, contents
from reliability_checks.verdict import Failure, Part, Verdict

Make = Callable[[Path, Random], None]
MARK = "taken"


class _Bomb:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return (open, (MARK, "w"))


def _npy(shape: str, data: bytes = b"", dtype: str = "'<f4'") -> bytes:
    """An array in NumPy's format, whatever it claims."""
    head = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + data


def _zip(**arrays: bytes) -> Make:
    def make(folder: Path, random: Random) -> None:
        with zipfile.ZipFile(folder / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in arrays.items():
                archive.writestr(f"{name}.npy", data)

    return make


def _array(**arrays: Any) -> Make:
    return lambda folder, random: np.savez(folder / "d.npz", **arrays)


def _pickled(folder: Path, random: Random) -> None:
    value = np.empty(2, object)
    value[:] = [_Bomb(), _Bomb()]
    np.savez(folder / "d.npz", x=value)


def _plain_pickle(folder: Path, random: Random) -> None:
    import pickle

    (folder / "d.npz").write_bytes(pickle.dumps(_Bomb()))


def _text(folder: Path, random: Random) -> None:
    (folder / "d.npz").write_text("x,y\n1,2\n")


def _bomb(folder: Path, random: Random) -> None:
    """8 GB of zeros in 8 MB, claimed truly."""
    with (
        zipfile.ZipFile(folder / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(zipfile.ZipInfo("x.npy"), "w", force_zip64=True) as stream,
    ):
        stream.write(_npy("(33554432, 64)"))
        for _ in range(4):
            stream.write(bytes(1 << 20))


def _rows(folder: Path) -> bytes:
    made = io.BytesIO()
    np.savez(made, x=np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32))
    return made.getvalue()


def _cut(folder: Path, random: Random) -> None:
    data = _rows(folder)
    (folder / "d.npz").write_bytes(data[: random.randrange(len(data))])


def _flipped(folder: Path, random: Random) -> None:
    data = bytearray(_rows(folder))
    for _ in range(random.choice((1, 4, 32))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    (folder / "d.npz").write_bytes(data)


HUGE = "(1099511627776, 64)"
DATA: Mapping[str, Make] = {
    "pickled": _pickled, "a pickle": _plain_pickle, "a bomb": _bomb, "cut": _cut, "flipped": _flipped,
    "empty": lambda folder, random: (folder / "d.npz").touch(),
    "no array": _array(), "huge": _zip(x=_npy(HUGE)), "negative": _zip(x=_npy("(-4, 64)")),
    "no shape": _zip(x=_npy("()")), "shape of text": _zip(x=_npy("('a',)")), "code": _zip(x=_npy("__import__('os')")),
    "overflow": _zip(x=_npy("(4294967296, 4294967296)")), "deep": _zip(x=_npy("(" * 3000 + ")" * 3000)),
    "objects": _zip(x=_npy("(2,)", b"x" * 16, "'|O'")),
    "a type of fields": _zip(x=_npy("(4,)", bytes(64), "[('a', '<f4')]")),
    "of another rank": _array(x=np.zeros((4, 4, 4), np.float32)), "of text": _array(x=np.array(["a", "b"])),
    "NaN": _array(x=np.full((32, 64), np.nan, np.float32)), "infinite": _array(x=np.full((32, 64), np.inf, np.float32)),
    "no row": _array(x=np.zeros((0, 64), np.float32)), "complex": _array(x=np.zeros((32, 64), np.complex64)),
    "other names": _array(y=np.zeros((32, 64), np.float32)), "a long name": _array(**{"x/../../y" * 20: np.zeros(3)}),
    "labels out of range": _array(x=np.zeros((32, 64), np.float32), labels=np.full(32, 1 << 40)),
    "labels negative": _array(x=np.ones((32, 64), np.float32), labels=np.full(32, -5)),
    "labels of floats": _array(x=np.ones((32, 64), np.float32), labels=np.full(32, 0.5)),
    "not npz": _text,
    "a folder": lambda folder, random: (folder / "d.npz").mkdir(),
}  # fmt: skip

OTHERS: Sequence[Any] = (
    None,
    True,
    0,
    -1,
    1e400,
    "",
    "w9.channel.minmax",
    "w4.b0.minmax",
    [],
    {},
    [[]],
    "x" * 10000,
    {"a": {}},
)
NAMES = (
    "a b.onnx", "it's.onnx", 'say "x".onnx', "line\nend.onnx", "-dash.onnx", "größe.onnx", "$(touch taken).onnx",
    "`touch taken`.onnx", ";touch taken;.onnx", "{model}.onnx", "%s.onnx", "\\.onnx", "*.onnx", "tab\t.onnx", "#.onnx",
    "..onnx", "x.onnx ", "日本.onnx", "a&b|c>d.onnx", "\x1b[31m.onnx",
)  # fmt: skip


def cases(fast: bool) -> Sequence[str]:
    """Kinds with their numbers or names."""
    found = [f"data:{name}:{k}" for name in DATA for k in range(20 if name in ("cut", "flipped") and not fast else 1)]
    for kind, count, few in (("plan", 300, 4), ("table", 60, 2), ("resume", 12, 0), ("name", len(NAMES), 1)):
        found += [f"{kind}:{k}" for k in range(few if fast else count)]
    return [case for case in found if not fast or case != "data:a bomb:0"]


def check(case: str, folder: Path) -> list[Verdict]:
    """One file."""
    onnx.save(classifier(), folder / "in.onnx")
    os.chdir(folder)
    kind, _, rest = case.partition(":")
    end, failures = _KINDS[kind](rest, folder, Random(case))
    if (folder / MARK).exists():
        failures.append(Failure(kind="wrong", detail="code in the file was run"))
    return [Verdict(case=case, outcome=f"{kind}: {end.outcome}", failures=(*end.failures(), *failures))]


def _data(rest: str, folder: Path, random: Random) -> tuple[Ended, list[Failure]]:
    DATA[rest.split(":")[0]](folder, random)
    return _run(folder, "in.onnx", "out.onnx", "--data", "d.npz")


def _run(folder: Path, *arguments: str, own: Sequence[str] = ()) -> tuple[Ended, list[Failure]]:
    """A run whose inputs must stay as they are, but for files that are its `own`."""
    before = contents(folder)
    end = called(arguments)
    written = [] if end.result is None else [file.name for file in end.result.files]
    if end.code == 0 and "--apply" in arguments:
        written = ["out.onnx"]
    return end, changed(before, contents(folder), [*written, *own])


def _plan(rest: str, folder: Path, random: Random) -> tuple[Ended, list[Failure]]:
    assert called(["inspect", "in.onnx", "--data-free", "--plan", "p.json"]).code == 0
    text = (folder / "p.json").read_text()
    if random.random() < 0.4:
        data = bytearray(text.encode())
        for _ in range(random.choice((1, 3))):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        (folder / "p.json").write_bytes(data[: random.choice((len(data), random.randrange(len(data))))])
    else:
        plan = json.loads(text)
        _tamper(plan, random)
        (folder / "p.json").write_text(json.dumps(plan))
    return _run(folder, "in.onnx", "out.onnx", "--data-free", "--apply", "p.json")


def _tamper(value: Any, random: Random) -> None:
    """Change, drop or add a value somewhere inside."""
    places = [(value, key) for key in value] if isinstance(value, dict) else [(value, k) for k in range(len(value))]
    where, key = random.choice(places)
    if isinstance(where[key], dict) and where[key] and random.random() < 0.7:
        _tamper(where[key], random)
    elif random.random() < 0.2:
        del where[key]
    else:
        where[key] = random.choice(OTHERS)


def _table(rest: str, folder: Path, random: Random) -> tuple[Ended, list[Failure]]:
    command = ("in.onnx", "out.onnx", "--avg-bits", "5", "--table", "t.db")
    assert called(command).code == 0
    (folder / "out.onnx").unlink()
    way = random.choice(("flip", "cut", "entry", "schema"))
    data = bytearray((folder / "t.db").read_bytes())
    if way == "flip":
        for _ in range(random.choice((1, 8, 200))):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    (folder / "t.db").write_bytes(data[: random.randrange(len(data)) if way == "cut" else len(data)])
    if way in ("entry", "schema"):
        base = sqlite3.connect(folder / "t.db")
        if way == "entry":
            keys = base.execute("SELECT kind, name FROM entries WHERE kind != 'made of'").fetchall()
            new = random.choice(
                (b"", b"x", b"null", b"[]", b"{}", b"1e999", b"\x80\x04.", None, 5, "text", b"PK\x03\x04")
            )
            base.execute("UPDATE entries SET value = ? WHERE kind = ? AND name = ?", (new, *random.choice(keys)))
        else:
            base.execute(random.choice(("DROP TABLE entries", "ALTER TABLE entries RENAME COLUMN value TO v",
                                        "PRAGMA user_version = 9", "CREATE VIEW x AS SELECT 1")))  # fmt: skip
        base.commit()
        base.close()
    return _run(folder, *command, own=["t.db", "t.db-journal"])


def _resume(rest: str, folder: Path, random: Random) -> tuple[Ended, list[Failure]]:
    np.savez(folder / "d.npz", x=np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32))
    command = ("in.onnx", "out.onnx", "--data", "d.npz", "--method", "brecq", "--iterations", "2", "--resume", "r")
    assert called(command).code == 0
    right = (folder / "out.onnx").read_bytes()
    (folder / "out.onnx").unlink()
    kept = sorted((folder / "r").iterdir())
    file = random.choice(kept)
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    way = int(rest) % 4
    if way == 2:
        np.savez(file, allow_pickle=True, **{"codes/v": np.array([_Bomb()], object)})
    elif way == 3:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(data if way else data[: random.randrange(len(data))])
    end, failures = _run(folder, *command, own=[f"r/{one.name}" for one in kept])
    if end.code == 0 and (folder / "out.onnx").read_bytes() != right:
        failures.append(Failure(kind="wrong", detail="another model than without the damage"))
    return end, failures


def _name(rest: str, folder: Path, random: Random) -> tuple[Ended, list[Failure]]:
    name = NAMES[int(rest)]
    (folder / "in.onnx").rename(folder / name)
    script = "import sys, onnx; onnx.load(sys.argv[1]); print(0.5)"
    metric = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} {{model}}"
    options = ["--max-drop", "1%", "--metric-command", metric]
    return _run(folder, *options, "--", name, f"out {name}")


_KINDS = {"data": _data, "plan": _plan, "table": _table, "resume": _resume, "name": _name}

PART = Part(name="files", title="hostile data, plans, tables, checkpoints and names", cases=cases, check=check)
