"""The dnn module of OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
from child import Run, serve


def load(path: str, rows: object) -> Run:
    network = cv2.dnn.readNetFromONNX(path)

    def run() -> Any:
        network.setInput(rows)
        return network.forward()

    return run


if __name__ == "__main__":
    serve(load, "opencv-python-headless")
