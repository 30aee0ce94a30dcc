"""What do the curves of a race look like? One small chart a space: the mean with its band, as SVG and PNG."""

from collections.abc import Sequence
from pathlib import Path

from optimizer.race import Standings

COLUMNS = 3


def draw(found: Standings, strategies: Sequence[str], folder: Path) -> list[Path]:
    """Writes curves.svg and curves.png; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "race"  # the same race draws the same file
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(5.2 * columns, 3.4 * rows), squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (space, by) in zip(axes.flat, found.items(), strict=False):
        top = 1.0
        for i, name in enumerate(strategies):
            if name not in by:
                continue
            one = by[name]
            x = range(1, len(one.mean) + 1)
            axis.plot(x, one.mean, color=f"C{i % 10}", linestyle="-" if i < 10 else "--", label=name, linewidth=1.4)
            axis.fill_between(x, one.low, one.high, color=f"C{i % 10}", alpha=0.15, linewidth=0)
            top = max(top, one.mean[min(9, len(one.mean) - 1)])
        axis.set_title(space, fontsize=10)
        axis.set_ylim(1.0, top * 1.02)
        axis.set_xlabel("evaluations")
        axis.set_ylabel("best so far / optimum")
        axis.grid(alpha=0.3)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.set_layout_engine("constrained")
    paths = [folder / "curves.svg", folder / "curves.png"]
    for path in paths:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths
