"""Figures for papers: one column of a two-column page wide, readable there, in colours that colour-blind readers part.

matplotlib is an optional extra (`pip install "rayul[figures]"`): a sweep and its report need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayul.errors import InputError
from rayul.files import whole_file
from rayul.pareto.held_out import held_out
from rayul.records import PRUNED, Evaluation
from rayul.records.folder import SweepRecords
from rayul.report.axes import Axis, axes
from rayul.report.panels import calibrated, trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rayul.report.summary import Summary

Drawing = tuple[float, Callable[["Figure"], None]]
"""Height in inches, and what draws on the empty figure."""

FORMATS = ("pdf", "png", "svg")
WIDTH = 3.35
"""Inches: a column of the usual two-column styles (3.25 to 3.5)."""

BLUE, SKY, GREEN, VERMILLION, ORANGE, PURPLE, GREY = (
    "#0072b2",
    "#56b4e9",
    "#008a64",
    "#c45200",
    "#c98b00",
    "#a04a80",
    "#8a939b",
)
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # publishers refuse the default's Type 3 fonts
    "svg.fonttype": "none",
    "svg.hashsalt": "rayul",  # equal records give equal files
}


def check_formats(formats: Sequence[str]) -> None:
    """Raises InputError for an unknown format, or where matplotlib is not installed."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise InputError(f"--figures: {', '.join(unknown)} is no format", f"give any of {','.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--figures needs matplotlib, which is not installed", 'pip install "rayul[figures]", then run this again'
        ) from error


def write_figures(results: SweepRecords, summary: Summary, formats: Sequence[str]) -> list[Path]:
    """Write front, trajectories, hypervolume and, with mixing, calibration into figures/ of the results folder.

    The numbers are those of the Parquet files. Returns the paths. Raises InputError as `check_formats` does.
    """
    chosen = axes(results)
    drawings: dict[str, Drawing] = {"hypervolume": (2.2, lambda figure: draw_history(figure, summary))}
    if chosen is not None:
        drawings["front"] = (2.8, lambda figure: draw_front(figure, results, summary, chosen))
        drawings["trajectories"] = (3.4, lambda figure: draw_trajectories(figure, results, summary, chosen))
        if calibrated(results, summary.front):
            drawings["calibration"] = (3.4, lambda figure: draw_calibration(figure, results, summary, chosen))
    return save_figures(drawings, results.folder / "figures", formats)


def save_figures(drawings: Mapping[str, Drawing], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Draw each and write it as NAME.FORMAT; returns the paths. Raises InputError as `check_formats` does."""
    check_formats(formats)
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, (height, draw) in sorted(drawings.items()):
            figure = Figure(figsize=(WIDTH, height))
            draw(figure)
            for kind in formats:
                path = folder / f"{name}.{kind}"
                dateless: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[kind]
                with whole_file(path) as temporary:
                    figure.savefig(temporary, format=kind, metadata=dateless)
                written.append(path)
    return written


def draw_front(figure: Figure, results: SweepRecords, summary: Summary, chosen: tuple[Axis, Axis]) -> None:
    """Forgetting against utility: every evaluation, the front with standard errors, limits, baseline and oracle."""
    x, y = chosen
    plot = figure.subplots()
    trained = [e for e in results.evaluations if not e.is_reference and e.step > 0]
    broken, kept = [e for e in trained if not e.feasible], [e for e in trained if e.feasible]
    # A dense cloud as an image: a thousand vector marks make a slow PDF.
    cloud: dict[str, Any] = {"linestyle": "none", "marker": "o", "rasterized": len(trained) > 500, "zorder": 1}
    plot.plot(
        x.of(broken), y.of(broken), mfc="none", mec=GREY, mew=0.4, ms=2.2, alpha=0.6, label="breaks a limit", **cloud
    )
    plot.plot(x.of(kept), y.of(kept), color=SKY, mew=0, ms=2.6, alpha=0.6, label="within limits", **cloud)
    front = sorted(summary.front, key=lambda e: float(x.of([e])[0]))
    if front:
        at: dict[str, Any] = {"x": x.of(front), "y": y.of(front)}
        if len(results.objectives) == 2:
            plot.step(at["x"], at["y"], where="pre", color=BLUE, zorder=3)
        plot.errorbar(
            **at, xerr=x.error(front), yerr=y.error(front), fmt="o", color=BLUE, elinewidth=0.5, label="front", zorder=4
        )
        unseen = [(float(x.of([e])[0]), h.report) for e in front for h in held_out(results, e) if h.metric == y.metric]
        if unseen:
            plot.plot(*zip(*unseen, strict=True), "s", mfc="white", mec=VERMILLION, label="on retain-report", zorder=3)
    for e, marker, colour, name in (
        (results.baseline, "D", "black", "baseline"),
        (results.oracle, "*", GREEN, "oracle"),
    ):
        if e is not None:
            plot.plot(x.of([e]), y.of([e]), marker, color=colour, ms=7 if marker == "*" else 4, label=name, zorder=5)
    draw_limits(plot, results, y)
    shown = [*(front or trained), *(e for e in (results.baseline, results.oracle) if e)]
    below = [h.report for e in front for h in held_out(results, e) if h.metric == y.metric]
    heights = [v for v in [*y.of(shown).tolist(), *below] if v == v]
    heights += [y.place(limit) for limit in results.every_limit if limit.metric == y.metric]
    if heights:
        pad = 0.08 * max(max(heights) - min(heights), 0.1)
        plot.set_ylim(min(heights) - pad, max(heights) + pad)
    in_percent(plot, "xy")
    plot.set_xlabel(x.title)
    plot.set_ylabel(y.title)
    # Above the plot: inside it would cover points, here or there.
    figure.legend(loc="outside upper center", ncols=3, handletextpad=0.3, labelspacing=0.25, columnspacing=1)


def draw_trajectories(figure: Figure, results: SweepRecords, summary: Summary, chosen: tuple[Axis, Axis]) -> None:
    """Forgetting and utility of every trial over its steps, the best one dark, a cross where a trial was pruned."""
    paths = {trial: trajectory(rows) for trial, rows in results.trials.items()}
    faint = min(0.6, max(0.1, 4 / max(1, len(paths)) ** 0.5))
    panels = figure.subplots(2, sharex=True)
    for plot, axis in zip(panels, chosen, strict=True):
        for trial, path in paths.items():
            pruned = results.endings[trial].state == PRUNED
            colour = ORANGE if pruned else BLUE
            steps = [e.step for e in path]
            plot.plot(steps, axis.of(path), color=colour, alpha=faint, lw=0.6, rasterized=len(paths) > 200)
            if pruned and path:
                plot.plot(steps[-1:], axis.of(path[-1:]), "x", color=colour, ms=2.5, mew=0.7)
        if summary.best is not None:
            path = paths[summary.best.trial_id]
            plot.plot([e.step for e in path], axis.of(path), "o-", color="black", lw=1.2, ms=2.2)
        draw_limits(plot, results, axis)
        in_percent(plot, "y")
        plot.set_ylabel(axis.short)
    handles = [
        panels[0].plot([], [], color=BLUE, label="completed")[0],
        panels[0].plot([], [], "x-", color=ORANGE, label="pruned")[0],
        *([panels[0].plot([], [], "o-", color="black", label="best")[0]] if summary.best else []),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    panels[1].set_xlabel("Optimiser step")


def draw_history(figure: Figure, summary: Summary) -> None:
    """Hypervolume over the number of evaluations."""
    plot = figure.subplots()
    counts, volumes = zip(*summary.history, strict=True)
    plot.step(counts, volumes, where="post", color=BLUE)
    plot.set_xlim(0, max(1, counts[-1]))
    plot.set_ylim(bottom=0)
    plot.set_xlabel("Evaluations")
    plot.set_ylabel("Hypervolume")


def draw_calibration(figure: Figure, results: SweepRecords, summary: Summary, chosen: tuple[Axis, Axis]) -> None:
    """Forgetting and utility of the models behind the front over their mixing coefficient."""
    on_front = {e.key for e in summary.front}
    panels = figure.subplots(2, sharex=True)
    for plot, axis in zip(panels, chosen, strict=True):
        for path in calibrated(results, summary.front):
            plot.plot([e.mixing for e in path], axis.of(path), ".-", color=BLUE, alpha=0.6, lw=0.8)
            marks: list[Evaluation] = [e for e in path if e.key in on_front]
            plot.plot([e.mixing for e in marks], axis.of(marks), "o", mfc="none", mec="black", ms=5)
        draw_limits(plot, results, axis)
        in_percent(plot, "y")
        plot.set_ylabel(axis.short)
    panels[1].set_xlabel("Mixing (0 baseline, 1 unlearned)")


def draw_limits(plot: Axes, results: SweepRecords, axis: Axis) -> None:
    for limit in results.every_limit:
        if limit.metric == axis.metric:
            plot.axhline(axis.place(limit), color=VERMILLION, ls="--", lw=0.8, zorder=2)


def in_percent(plot: Axes, which: str) -> None:
    from matplotlib.ticker import PercentFormatter

    for letter in which:
        axis = plot.xaxis if letter == "x" else plot.yaxis
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
