"""Plots of `bench.routing.sim`'s grid. Knows nothing of how the numbers came about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.routing.rows import Row

MEASURES = {
    "wait_p95": "95th percentile of the wait for the first token, s",
    "whole_p95": "95th percentile of the whole time, s",
}
STYLES = {
    "random": ("tab:gray", ":"),
    "round robin": ("tab:olive", ":"),
    "least loaded record": ("tab:red", "--"),
    "two choices": ("tab:blue", "--"),
    "ours": ("tab:green", "-"),
    "oracle": ("black", ":"),
}


def plot_grid(rows: Sequence[Row], folder: Path) -> None:
    """One SVG for each measure: by the age of the records, a panel for each load and number of gateways."""
    import matplotlib  # imported late: only plots need it

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "p2pnet"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    panels = sorted({(row.scenario.load, row.scenario.gateways) for row in rows})
    for name, label in MEASURES.items():
        figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.4), sharey=True, squeeze=False)
        for axis, panel in zip(axes[0], panels, strict=True):
            _draw_panel(axis, [row for row in rows if (row.scenario.load, row.scenario.gateways) == panel], name)
            axis.set_title(f"{panel[0]:.0%} load, {panel[1]} gateways", fontsize=9)
        axes[0][0].set_ylabel(label, fontsize=8)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncol=len(labels), fontsize=8, frameon=False)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        figure.savefig(folder / f"routing_{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


def _draw_panel(axis: object, rows: Sequence[Row], name: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    for policy in dict.fromkeys(row.policy for row in rows):
        own = [row for row in rows if row.policy == policy]
        colour, line = STYLES[policy]
        ages = [row.scenario.age_s for row in own]
        axis.plot(ages, [getattr(row, name) for row in own], line, color=colour, marker="o", ms=3, label=policy)
    axis.set_xscale("log")
    axis.set_xticks(sorted({row.scenario.age_s for row in rows}))
    axis.set_xticklabels([f"{age_s:g}" for age_s in sorted({row.scenario.age_s for row in rows})])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel("age of load records, s", fontsize=8)
    axis.grid(alpha=0.3)
