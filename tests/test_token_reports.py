"""What a run, a comparison and a sweep tell of the next token."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from token_models import token_ids, token_model

from mixquant_onnx.cli.main import main
from mixquant_onnx.numerics.distributions import divergence
from mixquant_onnx.report.figures.sweep import divergence as divergence_figure
from mixquant_onnx.report.tokens import TokenData, columns, lines_on_tokens, mean_text, share_text, tokens_text
from mixquant_onnx.runtime.session import Session

pytestmark = pytest.mark.usefixtures("stored_at_a_loss")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(token_model(), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", ids=token_ids(64))
    np.savez(tmp_path / "held.npz", ids=token_ids(40, seed=1))
    return tmp_path / "in.onnx"


def test_a_run_tells_the_divergence_on_rows_that_nothing_was_fitted_to(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, held, report = tmp_path / "out.onnx", tmp_path / "held.npz", tmp_path / "run.json"
    told = ["--data", str(tmp_path / "data.npz"), "--eval-data", str(held), "--json", str(report)]
    assert main([str(model), str(out), "--avg-bits", "5", *told]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    (found,) = {json.dumps(q["tokens"]) for q in json.loads(report.read_text())["verification"]["quality"]}
    tokens: TokenData = json.loads(found)
    feed = {"ids": token_ids(40, seed=1)}
    before, after = (Session(path).run(feed)[0] for path in (model, out))
    assert tokens["kl"]["value"] == pytest.approx(divergence(before, after).mean(), rel=1e-3)
    assert tokens["top1"]["value"] == pytest.approx((before.argmax(-1) == after.argmax(-1)).mean())
    assert (tokens["sequences"], tokens["tokens"]) == (40, 480)
    assert tokens["perplexity"] and tokens["float_perplexity"] and tokens_text(tokens) in shown
    assert main(["compare", str(model), str(out), "--data", str(held), "--no-benchmark", "-q"]) == 0
    assert tokens_text(tokens) in " ".join(capsys.readouterr().out.split())


def test_a_sweep_has_the_divergence_beside_the_bytes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"sweep.{name}" for name in ("csv", "json", "html")}
    written = ["--csv", str(files["csv"]), "--json", str(files["json"]), "--report", str(files["html"])]
    assert main(["sweep", str(model), "--avg-bits", "4,7", "--data", str(tmp_path / "data.npz"), *written]) == 0
    shown = capsys.readouterr().out
    data = json.loads(files["json"].read_text())
    four, seven = (point["tokens"]["kl"] for point in data["points"])
    assert four["value"] > 4 * seven["value"] > 0 and 0 < seven["error"] < seven["value"]
    lines = [re.split(r" {2,}", line.strip()) for line in shown.split("next token")[1].splitlines()]
    rows = {line[0]: line[2:] for line in lines if len(line) == 5}
    assert list(rows) == ["plan", "avg-bits 4", "avg-bits 7", "plain int8", "float"]
    assert rows["avg-bits 4"][0] == mean_text(four) and rows["float"][:2] == ["0", "100 %"]
    assert "± is the standard error over sequences; 96 tokens in 8 sequences" in " ".join(shown.split())
    with files["csv"].open(encoding="utf8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [float(row["kl"]) for row in listed] == [four["value"], seven["value"]]
    assert [float(row["kl_error"]) for row in listed] == [four["error"], seven["error"]]
    assert {"top1", "top1_error", "perplexity", "perplexity_error", "sequences", "tokens"} < set(listed[0])
    page = files["html"].read_text()
    assert "<th>KL, nats a token</th>" in page and f"<td>{mean_text(four)}</td>" in page
    chart = divergence_figure(data)
    assert chart is not None
    drawn = chart.to_dict()
    front, _, marks = (drawn["datasets"][layer["data"]["name"]] for layer in drawn["layer"])
    plain = data["plain_int8"]["tokens"]["kl"]["value"]
    assert sorted(row["value"] for row in marks) == sorted([four["value"], seven["value"], plain])
    assert front[-1]["value"] == min(plain, seven["value"]) and "KL " in marks[0]["told"]
    four["value"] = seven["value"] = 0.0  # a logarithmic scale has no zero
    assert divergence_figure(data | {"plain_int8": None}) is None


def test_other_models_have_no_such_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(token_model(output="last_hidden_state"), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", ids=token_ids(64))
    written = ["--csv", str(tmp_path / "rows.csv"), "--json", str(tmp_path / "rows.json")]
    command = ["sweep", str(tmp_path / "in.onnx"), "--avg-bits", "5", "--data", str(tmp_path / "data.npz")]
    assert main([*command, *written]) == 0
    assert "next token" not in capsys.readouterr().out
    data = json.loads((tmp_path / "rows.json").read_text())
    assert data["points"][0]["tokens"] is None and divergence_figure(data) is None
    assert "kl,kl_error" in (tmp_path / "rows.csv").read_text().splitlines()[0]


def test_generated_tokens_tell_nothing_of_the_next_one(model: Path, tmp_path: Path) -> None:
    assert main(["sweep", str(model), "--avg-bits", "5", "--json", str(tmp_path / "rows.json")]) == 0
    (point,) = json.loads((tmp_path / "rows.json").read_text())["points"]
    assert point["tokens"] is None and point["rows"] > 0


def test_words_on_the_next_token() -> None:
    data: TokenData = {
        "kl": {"value": 0.01234, "error": 0.00056}, "top1": {"value": 0.9512, "error": 0.0034},
        "perplexity": {"value": 5.678, "error": 0.4}, "float_perplexity": {"value": 5.6, "error": None},
        "sequences": 8, "tokens": 512,
    }  # fmt: skip
    assert tokens_text(data) == "KL 0.0123 ± 0.0006 nats a token, perplexity 5.68 (float 5.6)"
    assert tokens_text({**data, "perplexity": None}) == "KL 0.0123 ± 0.0006 nats a token"
    assert share_text(data["top1"]) == "95.12 ± 0.34 %" and share_text({"value": 0.5, "error": None}) == "50.00 %"
    assert mean_text({"value": "inf", "error": None}) == "inf" and mean_text(None) == "-"
    assert columns(None) == dict.fromkeys(columns(data)) and columns(data)["perplexity_error"] == 0.4
    assert lines_on_tokens([]) == []
