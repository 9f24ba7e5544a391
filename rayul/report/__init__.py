"""What people read: the page, tables, figures, terminal text, comparisons, the model card. From the records alone."""

from rayul.report.results import Results, load_results
from rayul.report.summary import Summary, summary_of
from rayul.report.terminal import front_lines
from rayul.report.write import summarise

__all__ = ["Results", "Summary", "front_lines", "load_results", "summarise", "summary_of"]
