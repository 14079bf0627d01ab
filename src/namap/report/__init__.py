"""Reports: one self-contained HTML file of a run, or of several side by side, that opens from disk."""

from .mappings import Fitted, analogies_sheet, mapping_sections, settings_table, training_section
from .page import Section, Table, image_grid, write_page
from .runs import report_runs, timing_rows, version_rows

__all__ = [
    "Fitted",
    "Section",
    "Table",
    "analogies_sheet",
    "image_grid",
    "mapping_sections",
    "report_runs",
    "settings_table",
    "timing_rows",
    "training_section",
    "version_rows",
    "write_page",
]
