"""Draws the result of the main job in both recipes as the README shows it: ``make picture``."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lvexport.bundle import read
from lvexport.render import origins, results

BUNDLE = Path("dist/mobilevit_xxs-demo-64")
COMMAND = "lvexport mobilevit --to coreml,tflite,executorch,onnx --quantize fp32,fp16"


def draw() -> str:
    """The picture, as SVG."""
    bundle = read(BUNDLE)
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text(f"$ {COMMAND}\n", style="bold"))
    console.print(results(bundle))
    console.print(origins(bundle))
    return console.export_svg(title="lvexport")


if __name__ == "__main__":
    Path("docs/demo.svg").write_text(draw())
