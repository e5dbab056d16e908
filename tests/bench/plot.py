"""A picture of a run: one bar per goal, as a share of its bound. Right of the line is reached. Needs matplotlib."""

from pathlib import Path

from pagecache.bench.report import number
from pagecache.bench.suite import Row
from tests.bench.suite import Outcome, goal_of, verdict

COLOURS = {"yes": "#2a7f4f", "near": "#c9a227", "no": "#b3372f"}
WIDEST = 4.0  # bars longer than this are cut; the number beside them is not


def share(row: Row) -> float:
    """Return the share of its goal that a row reaches: 1 and above is reached, in either direction."""
    goal = goal_of(row)
    if goal is None or row.value is None:
        return 0.0
    if goal.sense == "at least":
        return row.value / goal.bound
    return goal.bound / row.value if row.value > 0 else WIDEST


def label(row: Row) -> str:
    """Return the label of a bar."""
    goal = goal_of(row)
    against = "" if goal is None or goal.exact else f", against {row.against}"
    return f"{row.metric}{against}  {row.key}"


def draw(outcome: Outcome, path: Path) -> None:
    """Write the picture to `path`; the suffix of the name chooses the format.

    Raises:
        OSError: The file cannot be written.
        ValueError: matplotlib has no format for the suffix.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in outcome.result.rows if row.key and row.value is not None]
    rows.reverse()
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.28 * max(len(rows), 1)), layout="constrained")
    for height, row in enumerate(rows):
        goal = goal_of(row)
        assert goal is not None
        reached = min(share(row), WIDEST)
        colour = COLOURS[verdict(row, outcome.result.spread) or "no"]
        error = min(row.spread * reached, 0.5)
        axes.barh(height, reached, color=colour, xerr=error or None, ecolor="#555555")
        # Beyond the error bar, and never across the line of the goal.
        beside = reached + error if reached >= 1 else max(reached + error, 1.0)
        axes.text(beside + 0.06, height, f"{number(row.value)}  ({goal.text()})", va="center", fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels([label(row) for row in rows], fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(0, WIDEST + 1.5)
    axes.set_xlabel("measured as a share of the goal (cut at 4)")
    where = outcome.machine
    axes.set_title(
        f"pagecache {where['package']}, {where['python']}, {where['cpus']} CPUs, {where['model']}", fontsize=9
    )
    figure.savefig(path)
    pyplot.close(figure)
