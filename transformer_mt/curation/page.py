"""Statistics of parallel text as one HTML page: no files beside it, nothing from elsewhere, all text escaped."""

from __future__ import annotations

from collections.abc import Sequence

from transformer_mt.config.data_sections import CleanConfig
from transformer_mt.curation import charts, tables
from transformer_mt.curation.common import percent, share
from transformer_mt.curation.stats import REPEATS, PartStats
from transformer_mt.system.pages import page_templates


def render_page(parts: Sequence[PartStats], title: str, clean: CleanConfig) -> str:
    """The whole page. ``title`` tells which corpus, and the limits of ``clean`` are drawn into the pictures."""
    templates = page_templates("transformer_mt.curation")
    templates.filters |= {"number": "{:,}".format, "percent": percent, "share": share}
    templates.globals |= {"charts": charts, "tables": tables, "REPEATS": REPEATS, "clean": clean}
    return templates.get_template("stats.html").render(parts=parts, title=title) + "\n"
