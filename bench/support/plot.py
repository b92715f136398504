"""Curves over time, one panel below the other, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BELOW = 1100, 260, 70, 30, 60, 46
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
TICKS = 5


class Curve(msgspec.Struct, frozen=True):
    """Points (seconds, value) in the order of time."""

    name: str
    points: list[tuple[float, float]]


class Panel(msgspec.Struct, frozen=True):
    """Curves that share a scale."""

    title: str
    curves: list[Curve]


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write the picture; all panels have the same seconds below them."""
    image = Image.new("RGB", (WIDTH, TOP + HEIGHT * len(panels)), "white")
    pen = ImageDraw.Draw(image)
    pen.text((LEFT, 16), title, "black", font=ImageFont.load_default(20))
    last = max((at for panel in panels for curve in panel.curves for at, _ in curve.points), default=1.0) or 1.0
    for number, panel in enumerate(panels):
        _panel(pen, panel, TOP + number * HEIGHT, last)
    image.save(path)


def _panel(pen: ImageDraw.ImageDraw, panel: Panel, top: int, last: float) -> None:
    small = ImageFont.load_default(12)
    bottom, right = top + HEIGHT - BELOW, WIDTH - RIGHT
    highest = max((value for curve in panel.curves for _, value in curve.points), default=1.0) or 1.0
    pen.text((LEFT, top), panel.title, "black", font=ImageFont.load_default(14))
    base = top + 40
    for tick in range(TICKS + 1):
        y = bottom - (bottom - base) * tick / TICKS
        pen.line((LEFT, y, right, y), "#dddddd")
        pen.text((8, y - 7), f"{highest * tick / TICKS:.4g}", "#555555", font=small)
        x = LEFT + (right - LEFT) * tick / TICKS
        pen.text((x - 10, bottom + 6), f"{last * tick / TICKS:.3g} s", "#555555", font=small)
    at = LEFT
    for curve, colour in zip(panel.curves, COLOURS, strict=False):
        points = [(LEFT + (right - LEFT) * x / last, bottom - (bottom - base) * y / highest) for x, y in curve.points]
        if len(points) > 1:
            pen.line(points, colour, width=2)
        pen.line((at, top + 27, at + 18, top + 27), colour, width=3)
        pen.text((at + 24, top + 20), curve.name, "black", font=small)
        at += 40 + int(pen.textlength(curve.name, font=small))
