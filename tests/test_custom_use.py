"""Custom losses in use: `check`, options, Modules, transforms and compilers."""

from __future__ import annotations

import pickle

import gallery
import pytest
import torch
import torch.nn.functional as F

from fused_losses import custom
from fused_losses.custom import builder

# ---- What check finds. ----


def test_check_of_a_good_loss(gallery_built, capsys):
    report = custom.check(gallery.log_cosh, *torch.randn(2, 5), scale=0.5)
    assert report.good, report
    assert {f.what for f in report.findings} >= {"differences", "extremes", "float32 beside float64"}
    assert capsys.readouterr().out.startswith("log_cosh: nothing wrong\ncheck ")


def test_check_says_what_is_wrong_and_where(gallery_built):
    """Log(0) + |d| / 0 is NaN; at a kink the gradient jumps."""
    x, t = torch.randn(2, 5)
    report = custom.check(gallery.laplace_nll, x, t, torch.rand(5) + 1)
    wrong = {(f.where, f.found) for f in report.findings if not f.good}
    assert ("scale = 0", "loss is NaN") in wrong
    assert all(where.startswith("scale") for where, _ in wrong)
    assert any(line.split() == "extremes scale = 0 loss is NaN WRONG".split() for line in str(report).splitlines())
    at_kink = custom.check(gallery.quantile, t, t)
    assert [f.where for f in at_kink.findings if not f.good] == ["second derivative"]


def test_check_stays_in_the_domain_of_its_example(custom_folder):
    """Deviance of a gamma distribution: of positive numbers; log of a negative one is no fault of the loss."""
    deviance = custom.elementwise(
        lambda mean, target: torch.log(mean.clamp(min=1e-20)) + target / mean.clamp(min=1e-20),
        name="gamma_deviance", differentiable=("mean",),
    )  # fmt: skip
    positive = torch.rand(5) + 0.5
    tried = {f.where for f in custom.check(deviance, positive, positive).findings if f.what == "extremes"}
    assert tried == {"mean"}  # nothing wrong
    square_root = custom.elementwise(lambda p: torch.sqrt(p * (1 - p) + 0.1), name="of_a_probability")
    assert custom.check(square_root, torch.rand(5)).good
    wrong = custom.check(square_root, torch.tensor([0.2, 0.5, 1.05])).findings
    assert {f.where for f in wrong if not f.good} == {"p = 30", "p = 1000", "p = 1e+10"}


def test_check_refuses_what_is_no_custom_loss():
    with pytest.raises(TypeError, match=r"check: expected a loss of fused_losses\.custom, got function mse_loss"):
        custom.check(F.mse_loss, torch.ones(2), torch.ones(2))


# ---- In use. ----


def test_ignored_elements_count_for_nothing(gallery_built):
    x = torch.tensor([1.0, float("nan"), -2.0], requires_grad=True)
    t = torch.tensor([1, 255, 0])
    got = gallery.asymmetric_focal(x, t, ignore_index=255)
    kept = gallery.asymmetric_focal(x.detach()[[0, 2]].requires_grad_(), t[[0, 2]])
    torch.testing.assert_close(got, kept)
    got.backward()
    assert x.grad[1] == 0
    assert x.grad.isfinite().all()
    assert torch.isnan(gallery.asymmetric_focal(x, t, ignore_index=None))


def test_options_are_arguments_of_the_compiled_code(gallery_built):
    x, t = torch.randn(2, 100, dtype=torch.float64)
    libraries = builder.cache_info()["libraries"]
    for scale in (0.5, 2, 3.7):
        torch.testing.assert_close(
            gallery.log_cosh(x, t, scale=scale), gallery.log_cosh.reference(x, t, scale=scale).mean()
        )
    assert builder.cache_info()["libraries"] == libraries


def test_module_and_pickle(gallery_built):
    module = gallery.log_cosh.Module(scale=0.5, reduction="sum")
    x, t = torch.randn(2, 10)
    assert repr(module) == "log_cosh.Module(scale=0.5, reduction='sum')"
    assert torch.equal(pickle.loads(pickle.dumps(module))(x, t), gallery.log_cosh(x, t, scale=0.5, reduction="sum"))
    assert pickle.loads(pickle.dumps(gallery.log_cosh)) is gallery.log_cosh


def written_apart(input, target, *, scale=1.0):
    return ((input - target) / scale) ** 2


def test_a_function_that_is_decorated_by_a_call_stays_itself():
    fused = custom.elementwise(written_apart)
    assert pickle.loads(pickle.dumps(written_apart)) is written_apart
    assert written_apart.__qualname__ == "written_apart"
    assert fused.reference(3.0, 1.0, scale=2.0) == fused.reference(2.0, 1.0) == 1
    assert pickle.loads(pickle.dumps(gallery.log_cosh.reference)) is gallery.log_cosh.reference


def test_transforms_and_compile(gallery_built):
    x, t = torch.randn(2, 5, dtype=torch.float64)
    plain = lambda x: gallery.log_cosh.reference(x, t, scale=1.0).mean()  # noqa: E731
    fused = lambda x: gallery.log_cosh(x, t)  # noqa: E731
    torch.testing.assert_close(torch.func.hessian(fused)(x), torch.func.hessian(plain)(x))
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    leaf = x.clone().requires_grad_()
    compiled(leaf).backward()
    torch.testing.assert_close(leaf.grad, torch.func.grad(plain)(x))
    exported = torch.export.export(gallery.log_cosh.Module(), (x, t))
    assert any("custom_" in str(n.target) for n in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x, t), plain(x))
    leaf = x.detach().clone().requires_grad_()
    exported.module()(leaf, t).backward()
    torch.testing.assert_close(leaf.grad, torch.func.grad(plain)(x.detach()))
