#!/usr/bin/env python3
"""Draw loss.csv as loss.svg:  python3 plot_loss.py loss.csv loss.svg"""
import csv
import sys
from math import ceil, floor

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 400, 60, 50, 20, 20
LOW, HIGH = 1.0, 8.0
SERIES = [("train_loss", "training", "#1f5fa8"), ("validation_loss", "held-out", "#c8501e")]


def main():
    rows = list(csv.DictReader(open(sys.argv[1])))
    last = max(int(row["tokens"]) for row in rows)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
             f'font-family="sans-serif" font-size="13">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    parts += axes(last)
    for number, (column, label, colour) in enumerate(SERIES):
        points = [(int(r["tokens"]), float(r[column])) for r in rows if r[column]]
        parts.append(line(points, last, colour))
        parts.append(text(WIDTH - RIGHT - 10, TOP + 20 + 18 * number, label, "end", colour))
    parts.append("</svg>")
    open(sys.argv[2], "w").write("\n".join(parts) + "\n")


def axes(last):
    for loss in range(ceil(LOW), floor(HIGH) + 1):
        height = y(loss)
        yield (f'<line x1="{LEFT}" y1="{height:.1f}" x2="{WIDTH - RIGHT}" y2="{height:.1f}" '
               f'stroke="#dddddd"/>')
        yield text(LEFT - 8, height + 4, str(loss), "end")
    for millions in range(0, last // 1_000_000 + 1, 4):
        yield text(x(millions * 1_000_000, last), HEIGHT - BOTTOM + 18, str(millions), "middle")
    yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "million tokens seen", "middle")
    yield text(16, TOP + 4, "loss", "start")


def line(points, last, colour):
    path = " ".join(f"{x(tokens, last):.1f},{y(loss):.1f}" for tokens, loss in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def text(at_x, at_y, words, anchor, colour="#333333"):
    return (f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}" '
            f'fill="{colour}">{words}</text>')


def x(tokens, last):
    return LEFT + (WIDTH - LEFT - RIGHT) * tokens / last


def y(loss):
    share = (min(loss, HIGH) - LOW) / (HIGH - LOW)
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share


if __name__ == "__main__":
    main()
