"""Reports: one self-contained HTML file of a run, or of several side by side, that opens from disk."""

from .mappings import Fitted, analogies_sheet, mapping_sections, settings_section, training_section
from .page import Section, image_grid, write_page
from .runs import closing_section, report_runs, version_rows

__all__ = [
    "Fitted",
    "Section",
    "analogies_sheet",
    "closing_section",
    "image_grid",
    "mapping_sections",
    "report_runs",
    "settings_section",
    "training_section",
    "version_rows",
    "write_page",
]
