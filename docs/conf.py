"""Sphinx's settings: `make docs`. The pages of the losses are written by pages.py when the build starts."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402

from fused_losses import __version__  # noqa: E402

project, author, release = "fused_losses", "the authors of fused_losses", __version__
copyright = f"2026, {author}"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "mathml", "references"]
exclude_patterns = ["generated/toctree.md", "generated/measured.md"]
nitpicky = True
default_role = "code"
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_use_param = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"fused_losses {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False


def sentences(app, what, name, obj, options, lines):
    """Special values, errors and source, each of which starts a line in a docstring, as paragraphs of their own."""
    for i in reversed(range(1, len(lines))):
        before, line = lines[i - 1], lines[i]
        if before.endswith(".") and not before.startswith((" ", ".", "-")) and line[:1].isalnum():
            lines.insert(i, "")


def setup(app):
    app.connect("autodoc-process-docstring", sentences)
    app.connect("builder-inited", lambda app: pages.write(Path(app.srcdir) / "generated"))
