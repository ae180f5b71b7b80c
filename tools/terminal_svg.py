#!/usr/bin/env python3
"""Runs a command and writes what its output looked like as it came, as an animated picture (SVG with CSS).

    python3 tools/terminal_svg.py [--slow X] OUT.svg COMMAND [ARGUMENT ...]

Text and times are those of the run; --slow shows it X times slower (and says so), because small models write a page
in an instant. The picture repeats; where animations are off it shows the whole text.
"""
import argparse
import os
import shlex
import subprocess
import time
from xml.sax.saxutils import escape

COLUMNS, LINE, LEFT, TOP, CHARACTER, PAUSE = 92, 18, 16, 52, 8.4, 6.0

STYLE = """text{{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d6dae0;white-space:pre}}
.note{{font-size:12px;fill:#8b949e}}
.line{{animation-duration:{total:.2f}s;animation-iteration-count:infinite;animation-timing-function:linear}}
{frames}
@media(prefers-reduced-motion:reduce){{.line{{animation:none}}}}"""


def record(command):
    """[(seconds since the first byte, text)] and the seconds that the whole command took."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    pieces, first = [], None
    while True:
        piece = os.read(child.stdout.fileno(), 4096)
        if not piece:
            break
        now = time.monotonic()
        first = now if first is None else first
        pieces.append((now - first, piece.decode("utf-8", "replace")))
    if child.wait() != 0 or not pieces:
        raise SystemExit(f"{shlex.join(command)}: exit status {child.returncode}, {len(pieces)} pieces of output")
    return pieces, time.monotonic() - start


def lines_of(pieces):
    """[text, seconds of its first character, seconds of its last one] for each line of the screen."""
    lines = [["", None, 0.0]]
    for at, text in pieces:
        for c in text:
            if c == "\n" or len(lines[-1][0]) == COLUMNS:
                lines.append(["", None, at])
            if c != "\n":
                lines[-1] = [lines[-1][0] + c, at if lines[-1][1] is None else lines[-1][1], at]
    while lines and not lines[-1][0]:
        lines.pop()
    return lines


def draw(lines, typed, slow, note):
    """Every line is uncovered from left to right while its characters came; `typed` is the first line."""
    begin, end = 1.0, max(line[2] for line in lines) * slow
    total = begin + end + PAUSE
    frames, rows = [], [f'<text x="{LEFT}" y="{TOP}">$ {escape(typed)}</text>']
    for i, (text, first, last) in enumerate(lines):
        if not text:
            continue
        a, b = (100 * (begin + t * slow) / total for t in (first, last))
        frames.append(f"@keyframes k{i}{{0%,{a:.2f}%{{clip-path:inset(0 100% 0 0)}}"
                      f"{max(b, a + 0.01):.2f}%,100%{{clip-path:inset(0 0 0 0)}}}}")
        rows.append(f'<text class="line" style="animation-name:k{i}" x="{LEFT}" y="{TOP + LINE * (i + 1)}" '
                    f'textLength="{CHARACTER * len(text):.1f}">{escape(text)}</text>')
    width, height = int(2 * LEFT + CHARACTER * COLUMNS), TOP + LINE * (len(lines) + 2)
    rows.append(f'<text class="note" x="{LEFT}" y="{height - 10}">{escape(note)}</text>')
    dots = "".join(f'<circle cx="{20 + 18 * i}" cy="17" r="5.5" fill="{color}"/>'
                   for i, color in enumerate(("#ff5f57", "#febc2e", "#28c840")))
    style = STYLE.format(total=total, frames="\n".join(frames))
    body = "\n".join(rows)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n<style>{style}</style>\n'
            f'<rect width="{width}" height="{height}" rx="8" fill="#161b22"/>\n{dots}\n{body}\n</svg>\n')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--slow", type=float, default=1.0)
    p.add_argument("command", nargs=argparse.REMAINDER)
    c = p.parse_args()
    pieces, seconds = record(c.command)
    lines, writing = lines_of(pieces), pieces[-1][0]
    note = f"the whole command took {seconds:.2f} s, its output {1000 * writing:.0f} ms"
    if c.slow != 1.0:
        note += f"; shown {c.slow:g} times slower"
    with open(c.out, "w", encoding="utf-8") as f:
        f.write(draw(lines, shlex.join(c.command), c.slow, note))


if __name__ == "__main__":
    main()
