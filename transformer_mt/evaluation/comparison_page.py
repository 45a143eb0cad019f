"""A comparison of systems as one HTML page: no files beside it, nothing from elsewhere, all text escaped."""

from __future__ import annotations

from transformer_mt.evaluation import comparison_text
from transformer_mt.evaluation.comparison import Comparison
from transformer_mt.system.pages import page_templates


def render_comparison(comparison: Comparison, num_shown: int) -> str:
    """Return the page; of lines with changed numbers and names it has the first ``num_shown`` of each system."""
    template = page_templates("transformer_mt.evaluation").get_template("comparison.html")
    return template.render(comparison=comparison, text=comparison_text, num_shown=num_shown) + "\n"
