"""Rows and figures that print as a table and save as JSON, Markdown and one HTML page; one object, one room."""

from hardy.report.display import format_number
from hardy.report.figures import Bars, BarSeries, HeatMap, Lines, Series, save_png
from hardy.report.pictures import Pictures
from hardy.report.report import Report, Row

__all__ = ["BarSeries", "Bars", "HeatMap", "Lines", "Pictures", "Report", "Row", "Series", "format_number", "save_png"]
