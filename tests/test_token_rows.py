"""Rows of token ids alone, and texts: what is missing is filled in, and a row is a sequence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Fails
from conftest import ROOT
from decoders import FORMS, VOCABULARY, Array, Form, decoder
from onnx import ModelProto
from test_decoder_inputs import FIRST, check, sized

import mixquant_onnx as mq
from mixquant_onnx.cli.main import main
from mixquant_onnx.config.config import config_of
from mixquant_onnx.data.dataset import Data
from mixquant_onnx.data.preparation import all_rows, prepare
from mixquant_onnx.errors import DataError, OptionError

TEXT_DECODER = ROOT / "models" / "text_decoder"


def ids(rows: int, length: int) -> Array:
    return np.random.default_rng([rows, length]).integers(0, VOCABULARY, (rows, length))


def read(model: ModelProto, data: Any, **more: Any) -> Data:
    found = all_rows(model, config_of(data=data, **more).data)
    assert found is not None
    return found


def sequences(data: Data) -> list[list[int]]:
    return [row.tolist() for feed in data.feeds for row in feed["input_ids"]]


@pytest.mark.parametrize("form", ["plain", "query", "lengths", "standard"])
def test_ids_alone_are_completed(form: Form, tmp_path: Path) -> None:
    if form not in FORMS:
        pytest.skip("this onnxruntime does not run it")
    given = ids(40, 24)
    np.savez(tmp_path / "rows.npz", input_ids=given.astype(np.uint8))
    data = read(decoder(form), tmp_path / "rows.npz")
    assert all(check(form, feed) == 0 for feed in data.feeds)
    assert sequences(data) == given.tolist() and data.feeds[0]["input_ids"].dtype == np.int64


@pytest.mark.parametrize("form", ["merged", "copied"])
def test_both_branches_meet_rows(form: Form) -> None:
    """One of four sequences is cut: its first half is in the cache."""
    given = ids(16, 24)
    data = read(decoder(form), {"input_ids": given})
    pasts = [check(form, feed) for feed in data.feeds]
    assert pasts == [0, 12] and [len(feed["input_ids"]) for feed in data.feeds] == [12, 4]
    assert data.feeds[1]["input_ids"].tolist() == given[3::4, 12:].tolist()
    split = prepare(decoder(form), config_of(data={"input_ids": ids(40, 24)}).data, selects=True)
    assert split is not None and not split.in_sample
    for part in (split.calibration, split.selection, split.evaluation):
        assert {check(form, feed) for feed in part.feeds} == {0, 12}


def test_sequences_of_any_lengths_are_batched_by_length_in_order(tmp_path: Path) -> None:
    rows = [ids(1, length)[0] for length in (5, 5, 9, 1, 5)]
    np.savez(tmp_path / "rows.npz", **{f"input_ids.{k}": row for k, row in enumerate(rows)})
    for given in (tmp_path / "rows.npz", {"input_ids": [row.tolist() for row in rows]}):
        data = read(decoder(), given)
        assert sequences(data) == [row.tolist() for row in rows]
        assert [feed["input_ids"].shape for feed in data.feeds] == [(2, 5), (1, 9), (1, 1), (1, 5)]
        assert all(check("plain", feed) == 0 for feed in data.feeds)


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_cut_off(left: bool) -> None:
    given, mask = ids(6, 12), np.ones((6, 12), np.int64)
    mask[2:4, :5] = 0
    if not left:
        mask = mask[:, ::-1].copy()
    data = read(decoder(), {"input_ids": given, "attention_mask": mask})
    assert sequences(data) == [row[m > 0].tolist() for row, m in zip(given, mask, strict=True)]
    assert all(check("plain", feed) == 0 for feed in data.feeds)


def test_a_mask_with_gaps_is_kept() -> None:
    given, mask = ids(3, 6), np.array([[1, 0, 1, 1, 1, 1]] * 3)
    (feed,) = read(decoder(), {"input_ids": given, "attention_mask": mask}).feeds
    np.testing.assert_array_equal(feed["attention_mask"], mask)
    assert feed[FIRST].shape[2] == 0


def test_what_is_given_is_kept() -> None:
    given = ids(3, 6)
    (feed,) = read(decoder(), {"input_ids": given, "position_ids": np.full((3, 6), 7)}).feeds
    assert (feed["position_ids"] == 7).all() and feed["attention_mask"].shape == (3, 6)


def test_a_long_array_is_cut_and_long_sequences_are_truncated() -> None:
    stream = ids(1, 70)[0]
    assert sequences(read(decoder(), {"input_ids": stream}, sequence_length=16)) == stream[:64].reshape(4, 16).tolist()
    assert sequences(read(decoder(), {"input_ids": stream})) == [stream.tolist()]
    assert sequences(read(decoder(), {"input_ids": ids(1, 600)[0]})) == ids(1, 600)[0][:512].reshape(2, 256).tolist()
    rows = ids(4, 20)
    assert sequences(read(decoder(), {"input_ids": rows}, sequence_length=8)) == rows[:, :8].tolist()
    fixed = sized(decoder(), sequence_length=16)
    assert sequences(read(fixed, {"input_ids": stream})) == stream[:64].reshape(4, 16).tolist()


def test_a_fixed_batch_gets_as_many_rows() -> None:
    data = read(sized(decoder(), batch_size=3), {"input_ids": ids(10, 6)})
    assert [feed[FIRST].shape for feed in data.feeds] == [(3, 2, 0, 16)] * 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"input_ids": np.zeros((2, 3))}, "float64; give token ids as whole numbers"),
        ({"input_ids": np.full((2, 3), VOCABULARY)}, f"token id {VOCABULARY} is not in the model's vocabulary of 192"),
        ({"input_ids": np.array([[1, -1]])}, "token id -1 is not"),
        ({"input_ids": np.zeros((2, 0), np.int64)}, "a sequence has no tokens"),
        ({"input_ids": np.zeros((2, 3, 4), np.int64)}, "give rows of token ids"),
        ({"input_ids": [[1], [2, "x"]]}, "give token ids as whole numbers"),
        ({"attention_mask": np.ones((2, 3), np.int64)}, "has no array 'input_ids'"),
    ],
)
def test_rows_that_are_no_sequences_are_refused(given: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(decoder(), given)


def test_a_sequence_that_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(DataError, match="a sequence has 5 tokens, the model takes 8"):
        read(sized(decoder(), sequence_length=8), {"input_ids": ids(2, 5)})
    with pytest.raises(DataError, match="the model takes one token at a time"):
        read(sized(decoder(), sequence_length=1), {"input_ids": ids(2, 5)})


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    """Ragged rows as one array need a pickle, which could run code."""
    np.savez(tmp_path / "rows.npz", input_ids=np.array([ids(1, 3)[0], ids(1, 4)[0]], dtype=object))
    with pytest.raises(DataError, match=r"not an \.npz file of plain arrays"):
        read(decoder(), tmp_path / "rows.npz")


def test_parts_share_no_sequence() -> None:
    split = prepare(decoder(), config_of(data={"input_ids": ids(64, 12)}).data, selects=True)
    assert split is not None and not split.in_sample
    held, *others = (
        {row.tobytes() for feed in part.feeds for row in feed["input_ids"]}
        for part in (split.evaluation, split.calibration, split.selection)
    )
    assert held and all(others) and not held & others[0] and not held & others[1] and not others[0] & others[1]
    assert len(held | others[0] | others[1]) == 64


ENCODE = """
def encode(text):
    return [ord(letter) % 192 for letter in text]
def broken(text):
    raise RuntimeError("no such letter")
def words(text):
    return text.split()
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(decoder(), "in.onnx")
    (tmp_path / "tokens.py").write_text(ENCODE)
    (tmp_path / "text.txt").write_text("some text, " * 100)
    return tmp_path


def test_a_text_is_read_by_a_function_of_a_file_or_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [ord(letter) % 192 for letter in "some text, " * 100]
    monkeypatch.syspath_prepend(str(folder))
    for tokenizer in ("tokens.py:encode", "tokens:encode", lambda text: [ord(letter) % 192 for letter in text]):
        found = sequences(read(decoder(), "text.txt", tokenizer=tokenizer, sequence_length=100))
        assert found == np.reshape(whole, (11, 100)).tolist()
    (folder / "texts").mkdir()
    (folder / "texts" / "b.txt").write_text("b" * 300)
    (folder / "texts" / "a.txt").write_text("a" * 20)
    found = sequences(read(decoder(), "texts", tokenizer="tokens.py:encode"))
    assert found == [[97] * 20, [98] * 256]


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        ("tokens.py:absent", "AttributeError"),
        ("tokens.py:number", "is no function"),
        ("absent.py:encode", "FileNotFoundError"),
        ("no_such_package:encode", "ModuleNotFoundError"),
        ("tokens.py", "takes package.module:function or file.py:function"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_refused(folder: Path, fails: Fails, tokenizer: str, says: str) -> None:
    told = fails(2, "in.onnx", "out.onnx", "--data", "text.txt", "--tokenizer", tokenizer)
    assert says in told and tokenizer in told


def test_a_tokenizer_that_fails_is_named(folder: Path, fails: Fails) -> None:
    base = ("in.onnx", "out.onnx", "--data", "text.txt")
    assert "RuntimeError: no such letter" in fails(6, *base, "--tokenizer", "tokens.py:broken")
    assert "gave no list of token ids" in fails(6, *base, "--tokenizer", "tokens.py:words")
    assert "need --tokenizer" in fails(6, *base)
    (folder / "text.txt").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in fails(6, *base, "--tokenizer", "tokens.py:encode")
    assert "--tokenizer needs --data" in fails(2, "in.onnx", "out.onnx", "--tokenizer", "tokens.py:encode")


def test_a_tokenizer_runs_only_where_it_was_asked_for(folder: Path, fails: Fails) -> None:
    (folder / "tokens.py").write_text("from pathlib import Path\nPath('ran').touch()\n" + ENCODE)
    options = 'data = "text.txt"\ntokenizer = "tokens.py:encode"\n'
    (folder / "mixquant.toml").write_text(options)
    assert "was not asked for, and its tokenizer runs Python code" in fails(2, "in.onnx", "out.onnx")
    assert "its tokenizer runs Python code" in fails(2, "compare", "in.onnx", "in.onnx", "--no-benchmark")
    assert not (folder / "ran").exists()
    (folder / "sub").mkdir()
    for name in ("tokens.py", "text.txt"):
        (folder / name).rename(folder / "sub" / name)
    (folder / "mixquant.toml").rename(folder / "sub" / "mixquant.toml")
    assert main(["in.onnx", "out.onnx", "-q", "--config", "sub/mixquant.toml"]) == 0
    assert (folder / "ran").exists() and (folder / "out.onnx").exists()


@pytest.mark.slow
def test_a_decoder_is_calibrated_on_text(folder: Path) -> None:
    """Rows of a text make the trained decoder better than proxy texts do, on rows that nothing was fitted to."""
    with np.load(TEXT_DECODER / "eval.npz") as rows:
        np.savez("eval.npz", input_ids=rows["input_ids"][:16])
    with np.load(TEXT_DECODER / "calib.npz") as rows:
        text = rows["input_ids"][:32].astype(np.uint8).tobytes().decode(errors="replace")
    (folder / "text.txt").write_text(text)
    (folder / "tokens.py").write_text("def encode(text):\n    return list(text.encode())\n")
    worst = []
    for more in ([], ["--data", "text.txt", "--tokenizer", "tokens.py:encode"]):
        arguments = [
            str(TEXT_DECODER / "model.onnx"),
            "out.onnx",
            "-q",
            "--bits=4",
            "--eval-data=eval.npz",
            "--json=out.json",
        ]
        assert main([*arguments, *more]) == 0
        quality = json.loads(Path("out.json").read_text())["verification"]["quality"]
        worst.append(quality[0]["sqnr_db"])
    assert worst[1] > worst[0] + 1


def test_options_that_need_data_say_so() -> None:
    with pytest.raises(OptionError, match="--sequence-length needs --data"):
        mq.quantize(decoder(), sequence_length=8)
