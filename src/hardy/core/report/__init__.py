"""Rows and figures that print as a table and save as JSON, Markdown and one HTML page; one object, one room."""

from hardy.core.report.display import format_number
from hardy.core.report.figures import Bars, BarSeries, HeatMap, Lines, Series, save_png
from hardy.core.report.pictures import Pictures
from hardy.core.report.report import Report, Row

__all__ = ["BarSeries", "Bars", "HeatMap", "Lines", "Pictures", "Report", "Row", "Series", "format_number", "save_png"]
