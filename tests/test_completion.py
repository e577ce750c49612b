"""`mixquant-onnx completion`: what a shell makes of the script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mixquant_onnx.cli.completion import SHELLS
from mixquant_onnx.cli.main import main

BASH = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
complete_with=$(complete -p mixquant-onnx | sed -E 's/.*-F ([^ ]+).*/\\1/')
$complete_with mixquant-onnx "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(script: Path, words: str, folder: Path) -> set[str]:
    command = ["bash", "-c", BASH.format(script=script, words=words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("mixquant-onnx in", {"inspect"}),
        ("mixquant-onnx in.onnx out.onnx --max-s", {"--max-size"}),
        ("mixquant-onnx in.onnx out.onnx --targ", {"--target"}),
        ("mixquant-onnx in.onnx out.onnx --target ''", {"ort", "qdq"}),
        ("mixquant-onnx inspect in.onnx --activations ''", {"8", "dynamic", "float"}),
        ("mixquant-onnx inspect in.onnx --method g", {"gptq"}),
        ("mixquant-onnx sweep in.onnx --cs", {"--csv"}),
        ("mixquant-onnx compare in.onnx out.onnx --data c", {"calib.npz"}),
        ("mixquant-onnx completion ''", set(SHELLS)),
    ],
)
def test_bash_completes(words: str, wanted: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("in.onnx", "calib.npz"):
        (folder / name).touch()
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    assert completed(tmp_path / "script", words, folder) == wanted


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_where_no_command_fits_the_word_is_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p mixquant-onnx"], capture_output=True, text=True, check=True
    )
    assert "-o default" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_the_options_of_all_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(option in script for option in ("max-size", "min-ort", "min-agreement", "csv"))


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "dos"]) == 2
    assert "bash" in capsys.readouterr().err
