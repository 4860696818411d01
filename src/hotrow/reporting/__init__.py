"""The HTML report of a plan: one file that works offline."""

from __future__ import annotations

from hotrow.reporting.page import render_report

__all__ = ["render_report"]
