"""Formulas as MathML: browsers typeset it themselves, without a script, a font or a network."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert

NAMED = re.compile(r"<m[io]>(log|exp|max|min)</m[io]>")


def mathml(latex: str, display: str) -> str:
    """The formula, with the space around the names of functions that the converter leaves out."""
    return NAMED.sub(r'<mo lspace="0.17em" rspace="0.17em">\1</mo>', convert(latex, display=display))


def inline(writer, node):
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(writer, node):
    writer.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("config-inited", lambda app, config: setattr(config, "html_math_renderer", "mathml"))
    return {"parallel_read_safe": True}
