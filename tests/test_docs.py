"""What the site is made of: the curves of the losses, and the links between the Markdown files."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import fused_losses
from fused_losses import functional as F

DOCS = Path(fused_losses.__file__).resolve().parents[1] / "docs"
if not DOCS.exists():
    pytest.skip("the installed package has no docs", allow_module_level=True)
pytest.importorskip("matplotlib")


def module(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


shapes, links = module("shapes"), module("links")


NO_ANTIDERIVATIVE = {"lambda_ndcg_loss"}  # its weights, which jump where ranks change, get no gradient


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_curves_are_of_the_loss_and_its_gradient(name):
    assert name in F.__all__
    for label, (x, loss, gradient) in shapes.curves(shapes.SHAPES[name]).items():
        assert loss.shape == gradient.shape == x.shape, label
        assert torch.isfinite(gradient).all(), label
        integral = torch.cumulative_trapezoid(gradient.double(), x.double())
        kink = gradient.abs().max() * (x[1] - x[0])  # what the rule errs by where the gradient changes its sign at once
        error = (integral - (loss[1:] - loss[0])).abs().max()
        assert name in NO_ANTIDERIVATIVE or error < 1.1 * kink + 1e-3 * loss.abs().max(), label


def test_links_of_the_markdown_files_lead_somewhere():
    assert links.broken_in_markdown() == []


def test_broken_links_of_a_site_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a><a href="b.html#gone">x</a><img src="no.png">')
    (tmp_path / "b.html").write_text('<p id="here"><a href="https://example.org/gone">x</a><a href="#here">x</a></p>')
    assert links.broken(tmp_path) == ["a.html: b.html#gone", "a.html: no.png"]
