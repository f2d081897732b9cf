"""How the figures of sweeps and studies are drawn by matplotlib: PNG files, and SVG inside a page."""

import base64
import io

import matplotlib
from matplotlib.figure import Figure

STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0,
    "svg.hashsalt": "triptych",
}


def svg(draw, size=(4.6, 3.6)):
    """One panel as a data: URI of an SVG image."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def save_png(drawn, path, columns=3, size=(4.6, 3.8)):
    """Saves the panels of a figure as a PNG file, `columns` in a row."""
    num_rows, num_columns = -(-len(drawn) // columns), min(columns, len(drawn))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * num_columns, size[1] * num_rows), layout="constrained")
        grid = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
        for axes, (heading, draw) in zip(grid, drawn, strict=False):
            draw(axes)
            axes.set_title(heading, fontsize=11, fontweight="bold", loc="left")
        for axes in grid[len(drawn) :]:
            axes.remove()
        figure.savefig(path, dpi=160)
