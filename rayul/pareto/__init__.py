"""From the records to the front: feasible filter, Pareto front, hypervolume, tables, health checks, report."""

from rayul.pareto.results import Results, load_results
from rayul.pareto.summary import Summary, front_lines, summarise, summary_of

__all__ = ["Results", "Summary", "front_lines", "load_results", "summarise", "summary_of"]
