"""What does the history of an export look like? The ratio over time with its intervals, promise and changes, as PNG."""

import io
from collections.abc import Sequence

from optimizer.export.exported import Exported
from optimizer.production.history import REGRESSION, Check
from optimizer.production.verify import Finding


def picture(exported: Exported, checks: Sequence[Check]) -> bytes:
    """A PNG; the same history gives the same picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import dates, pyplot

    figure, axis = pyplot.subplots(figsize=(9.0, 4.2))
    shown = [c for c in checks if c.ratio is not None]
    times = [_day(c) for c in shown]
    ratios = [c.ratio or 0.0 for c in shown]
    spread = [
        [c.ratio - c.low for c in shown if c.ratio and c.low],
        [c.high - c.ratio for c in shown if c.ratio and c.high],
    ]
    axis.errorbar(times, ratios, yerr=spread, fmt="o-", color="C0", markersize=4, linewidth=1, label="measured")
    broken = [(t, r) for t, r, c in zip(times, ratios, shown, strict=True) if c.finding is Finding.BROKEN]
    if broken:
        axis.plot(*zip(*broken, strict=True), "X", color="C3", markersize=9, linestyle="none", label="promise broken")
    if (promised := exported.promise.verdict) is not None and exported.promise.floor is not None:
        axis.axhspan(promised.low, promised.high, color="C2", alpha=0.15, label="promised")
        axis.axhline(exported.promise.floor, color="C3", linestyle="--", linewidth=1, label="less the tolerance")
    for check in checks:
        if check.level and check.since is not None:
            at = _day(checks[check.since])
            axis.axvline(at, color="C3" if check.level == REGRESSION else "C2", linewidth=1.2)
            axis.annotate(check.level, (at, 1.0), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=8)
        if check.changed:
            axis.axvline(_day(check), color="0.6", linestyle=":", linewidth=1)
    axis.axhline(1.0, color="0.5", linewidth=0.8)
    axis.set_title(
        f"{exported.study}, trial {exported.document['number']} (dotted: the environment changed)", fontsize=10
    )
    axis.set_ylabel(f"{exported.recipe.goal.first.metric}, times the baseline's")
    locator = dates.AutoDateLocator()  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="best")
    figure.set_layout_engine("constrained")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return file.getvalue()


def _day(check: Check) -> float:
    """As matplotlib counts dates: days since 1970."""
    return check.at_s / 86400
