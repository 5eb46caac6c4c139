"""The two figures of the explanation, drawn from the text below by `python docs/figures/draw.py`.

A line of boxes is `name @ column,row[,width] = title | more lines`, a line of arrows is `from -> to [: label]`.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

FIGURES = {
    "case": """
        disk @ 0,0 = a case on disk | NIfTI files
        find @ 1,0 = find, read, check | cases/
        prepare @ 2,0 = prepare | preprocessing/ | 1 mm, RAS, z-scores
        model @ 3,0 = synthesise | model/
        restore @ 4,0 = restore | preprocessing/ | the patient's grid
        write @ 5,0 = write | outputs/ | image and sidecar
        disk -> find
        find -> prepare
        prepare -> model
        model -> restore
        restore -> write
    """,
    "model": """
        sources @ 0,0 = sources | one to three modalities | full resolution
        translator @ 1,0 = translator | whole brain, coarse | any subset of sources
        spade @ 2,0 = MS-SPADE | switches to the target | quarter resolution
        decoder @ 3,0 = guided decoder | voxel by voxel
        mean @ 4,0 = mean | and its expected error
        encode @ 2,1 = encoder | 3D VQGAN | of mean and sources
        denoiser @ 3,1 = denoiser | latent diffusion | of the residual
        sample @ 4,1 = sample | mean + residual
        sources -> translator
        translator -> spade
        spade -> decoder
        decoder -> mean
        encode -> denoiser
        denoiser -> sample
        sources ~> decoder : the sources' own voxels
        mean -> sample
    """,
}
WIDTH, HEIGHT, GAP, MARGIN, LINE = 148, 74, 34, 30, 16  # pixels
STYLE = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:13px}path{stroke:#667;fill:none}"


def drawn(text: str) -> str:
    """The SVG of one figure; `->` is a straight arrow, `~>` one that passes above the boxes between."""
    boxes: dict[str, tuple[float, float]] = {}
    parts: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if box := re.fullmatch(r"(\w+) @ (\d),(\d) = (.*)", line):
            name, column, row, words = box.groups()
            x, y = MARGIN + int(column) * (WIDTH + GAP), MARGIN + 14 + int(row) * (HEIGHT + GAP)
            boxes[name] = (x, y)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef3fa" stroke="#447"/>'
            )
            rows = [word.strip() for word in words.split("|")]
            top = y + HEIGHT / 2 - LINE * (len(rows) - 1) / 2 + 4
            for number, word in enumerate(rows):
                kind = ' class="t"' if number == 0 else ""
                place = f'x="{x + WIDTH / 2}" y="{top + LINE * number}"'
                parts.append(f'<text {place} text-anchor="middle"{kind}>{escape(word)}</text>')
        elif arrow := re.fullmatch(r"(\w+) (->|~>) (\w+)(?: : (.*))?", line):
            parts += _arrow(boxes[arrow[1]], boxes[arrow[3]], arrow[2] == "~>", arrow[4] or "")
        else:
            raise ValueError(f"a line must be a box or an arrow, got '{line}'")
    right, bottom = (max(corner[axis] for corner in boxes.values()) for axis in (0, 1))
    size = f"{right + WIDTH + MARGIN:.0f} {bottom + HEIGHT + MARGIN:.0f}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"><style>{STYLE}</style>'
    marker = (
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0L8,4L0,8z" fill="#667" style="fill:#667"/></marker></defs>'
    )
    return "\n".join([head, marker, *parts, "</svg>", ""])


def _arrow(start: tuple[float, float], end: tuple[float, float], above: bool, label: str) -> list[str]:
    (x, y), (u, v) = start, end
    middle = HEIGHT / 2
    if above:
        path = f"M{x + WIDTH / 2},{y} V{y - 18} H{u + WIDTH / 2} V{v}"
        words = [f'<text x="{(x + u + WIDTH) / 2}" y="{y - 24}" text-anchor="middle">{escape(label)}</text>']
        return [f'<path d="{path}" marker-end="url(#a)"/>', *words]
    path = f"M{x + WIDTH / 2},{y + HEIGHT} V{v}" if x == u else f"M{x + WIDTH},{y + middle} H{u}"
    return [f'<path d="{path}" marker-end="url(#a)"/>']


if __name__ == "__main__":
    for name, text in FIGURES.items():
        (Path(__file__).parent / f"{name}.svg").write_text(drawn(text), encoding="utf8")
