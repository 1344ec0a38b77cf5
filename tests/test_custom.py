"""Custom losses beside their formulas: what is refused, what is rewritten, how they are compiled and found."""

from __future__ import annotations

import functools
import math
import os
import pickle
import re
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gallery
import pytest
import torch
import torch.nn.functional as F

from fused_losses import custom
from fused_losses.custom import builder, loss
from fused_losses.custom.environment import environment

ROOT = Path(__file__).parents[1]
CONSTANT = torch.ones(3)

# ---- What is no pointwise formula: one sentence with the line and what to write instead. ----


def reduces(input, target):
    return (input - target).abs().sum()


def branches(input, target):
    if (input > target).any():
        return input
    return target


def branches_on_option(input, target, *, beta=1.0):
    return input if beta == 0 else target


def changes_shape(input, target):
    return (input - target)[0]


def looks_back(input, target):
    return torch.cumsum(input - target, 0)


def captures(input, target):
    return (input - target) * CONSTANT


def counts(input, target):
    return (input - target).long()


def fails(input, target):
    return input.no_such_method()


def loops(input, target):
    while input.abs().max() > 1:
        input = input / 2
    return input - target


def takes_a_number(input, target):
    return target * math.exp(input[0, 0])


def is_of_another_shape(input, target, *, scale=1.0):
    return 2 * scale


def is_longer(input, target):
    return torch.ones(5)


def is_an_outer_difference(input, target):
    return input.unsqueeze(-1) - target.unsqueeze(-2)


def draws(input, target):
    return input + torch.rand_like(target)


@pytest.mark.parametrize(
    "function, says",
    [
        (reduces, r"reduces: cannot fuse torch.sum in line \d+ \(`return .*sum\(\)`\); write a loss for each element"),
        (branches, r"branches: cannot fuse torch.any in line \d+ .*; write a loss for each element"),
        (branches_on_option, r"branches_on_option: cannot fuse a Python value made of a tensor's .* torch.where"),
        (changes_shape, r"changes_shape: cannot fuse torch.select in line \d+"),
        (looks_back, r"looks_back: cannot fuse torch.cumsum in line \d+"),
        (captures, r"captures: cannot fuse a tensor from outside the function in line \d+ .*as an argument"),
        (counts, r"counts: cannot fuse torch._?to_copy of these dtypes"),
        (fails, r"fails: expected a formula of PyTorch on tensors, got AttributeError: .*no_such_method"),
        (loops, r"loops: cannot fuse torch.max in line \d+ \(`while input.*`\); write a loss for each element"),
        (takes_a_number, r"takes_a_number: cannot fuse torch.select in line \d+"),
        (is_of_another_shape, r"is_of_another_shape: expected a loss for each element, got one of another shape"),
        (is_longer, r"is_longer: cannot fuse torch.ones, which changes the shape, in line \d+"),
        (is_an_outer_difference, r"is_an_outer_difference: cannot fuse torch.unsqueeze, which changes the shape"),
        (draws, r"draws: cannot fuse torch.rand_like in line \d+ .*; write noise as one more tensor"),
        (lambda input: 1.0, r"expected a tensor to be returned, got float"),
        (lambda a, b, c, d, e: a, r"expected one to 4 tensors, got 5 \(a, b, c, d, e\)"),
        (lambda input, target=1: input, r"expected tensors without defaults, then options after `\*`, got target=1"),
        (lambda input, *, weight=1.0: input, r"expected names other than reduction, weight, .* got weight"),
    ],
)
def test_refused(function, says):
    with pytest.raises(ValueError, match=says) as raised:
        custom.elementwise(function)
    assert "\n" not in str(raised.value)


def test_without_its_source_a_function_is_read_all_the_same():
    """Of a function that was typed in or made by `exec` the messages name the line and cannot show it."""
    made = {"torch": torch}
    exec("def typed(input, target):\n    return torch.sinh(input - target)\n"
         "def wrong(input, target):\n    return input.sum()\n", made)  # fmt: skip
    assert "sinh_(" in custom.elementwise(made["typed"]).source
    with pytest.raises(ValueError, match=r"^wrong: cannot fuse torch.sum in line 4; write a loss for each element"):
        custom.elementwise(made["wrong"])


@pytest.mark.parametrize("thing", [torch.abs, 3, functools.partial(branches, 1), torch.nn.MSELoss()])
def test_only_a_function_is_decorated(thing):
    with pytest.raises(TypeError, match=r"expected a function to decorate, got \w+$"):
        custom.elementwise(thing, name="thing")


def test_options_of_the_decorator_are_checked():
    for name in ("$(touch pwned)", "x y", "lambda", None):
        with pytest.raises(ValueError, match=r"custom: expected a name for the loss by name=, got '") as raised:
            custom.elementwise(lambda input: input, name=name)
        assert repr(name or "<lambda>") in str(raised.value)
    for options, says in (
        ({"differentiable": ("inputs",)}, "expected differentiable among input, target, got inputs"),
        ({"ignores": True}, "expected a second tensor whose elements are ignored, got 1 tensor"),
    ):
        function = (lambda input: input) if "ignores" in options else (lambda input, target: input)
        with pytest.raises(ValueError, match=says):
            custom.elementwise(function, name="loss", **options)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        custom.elementwise(branches, dtype=torch.float32)


def test_other_families_refuse_in_the_same_words():
    for decorate, function, says in (
        (custom.softmax, lambda log_p: log_p, r"expected 2 tensors, got 1 \(log_p\)"),
        (custom.softmax, lambda log_p, p: -log_p.sum(), r"cannot fuse torch.sum"),
        (custom.overlap, lambda a, b: a, r"expected 3 tensors, got 2 \(a, b\)"),
        (custom.overlap, lambda i, p, g, *, squared=1.0: i, r"expected names other than .*squared.*, got squared"),
        (custom.row_sums(term=lambda a, b: a * b), lambda total, a: total, r"expected a target with a name of its own"),
        (custom.row_sums(term=lambda a: a.mean()), lambda total: total, r"cannot fuse torch.mean"),
    ):
        with pytest.raises(ValueError, match=says) as raised:
            decorate(function)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("default", [True, None, "mean"])
def test_an_option_is_a_number(default):
    function = lambda input, target, *, beta: input * beta  # noqa: E731
    function.__kwdefaults__ = {"beta": default}
    with pytest.raises(TypeError, match="expected option beta to have a number as its default, got"):
        custom.elementwise(function)


def test_calls_are_checked_as_a_built_in_loss_checks_them(gallery_built):
    x = torch.zeros(2, 3)
    for call, error, says in (
        (lambda: gallery.log_cosh(x, x[0]), ValueError, r"log_cosh: expected target of shape \(2, 3\), got \(3,\)"),
        (lambda: gallery.log_cosh(x, x, scale="1"), TypeError, "log_cosh: expected scale to be a number, got str"),
        (lambda: gallery.log_cosh(x, x, scale=float("nan")), ValueError, "log_cosh: expected scale"),
        (lambda: gallery.log_cosh(x, x, reduction="median"), ValueError, "log_cosh: expected reduction to be one of"),
        (lambda: gallery.log_cosh(x, x, weight=x[:, :2]), ValueError, "log_cosh: expected weight to broadcast"),
        (lambda: gallery.log_cosh(x.long(), x), TypeError, "log_cosh: expected input of dtype"),
        (lambda: gallery.log_cosh(x, x, beta=1), TypeError, "unexpected keyword argument 'beta'"),
    ):
        with pytest.raises(error, match=says):
            call()


# ---- What is rewritten: careless formulas stay finite, value and gradient. ----


@custom.elementwise(differentiable=("input",))
def careless(input, target):
    p = torch.sigmoid(input)
    return (
        -target * torch.log(p)
        - (1 - target) * torch.log(1 - p)
        + torch.log1p(torch.exp(input))
        + 1 / (1 + torch.exp(-input))
    )


@custom.elementwise(differentiable=("input",))
def of_probability(input, target):
    return F.binary_cross_entropy(input, target, reduction="none")


def test_careless_formulas_of_logits_are_rewritten():
    assert not any(name in careless.source for name in ("log_(", "log1p_(", "exp_("))
    assert careless.source.count("sigmoid_terms(") == 1


def test_losses_of_probabilities_are_torch_s_at_0_and_1(custom_folder):
    """Also their gradients, which the logarithm's rule would make NaN there."""
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.3], dtype=torch.float64)
    found, expected = of_probability(p, t, reduction="none"), F.binary_cross_entropy(p, t, reduction="none")
    torch.testing.assert_close(found, expected)
    for losses in (found, expected):
        assert torch.autograd.grad(losses.sum(), p)[0].tolist() == pytest.approx([0, 1e12, -1e12, 0, 0.8])


def test_what_options_decide_makes_no_branch():
    """Around which gcc would make no vectors: masks in its place, and one comparison of a clamp instead of two."""
    for power in (gallery.poly1_focal, gallery.general_robust, gallery.tempered_bce):
        assert "choose(" in power.source
        assert not re.search(r"\bm\d+ \?", power.source)
    assert gallery.tukey.source.count(" ? ") == 1


def test_common_pieces_are_computed_once():
    assert gallery.log_cosh.source.count("sigmoid_terms(") == 1
    assert (
        gallery.distillation.source.count("sigmoid_terms(") == 3
    )  # of the logits as they are and divided; the teacher's


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
    assert repr(module) == "Module(scale=0.5, reduction='sum')"
    assert torch.equal(pickle.loads(pickle.dumps(module))(x, t), gallery.log_cosh(x, t, scale=0.5, reduction="sum"))
    assert pickle.loads(pickle.dumps(gallery.log_cosh)) is gallery.log_cosh


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


# ---- Compiling, finding, and neither. ----

LOSS = """
    import torch
    from fused_losses import custom

    @custom.elementwise(differentiable=("input",))
    def {name}(input, target, *, margin=1.0):
        return torch.relu(margin - input * target) ** {power}
"""


def run(code: str, folder: Path, **environment) -> subprocess.Popen:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(folder), "FUSED_LOSSES_CUSTOM_ISA": "native",
                   "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_many_processes_build_one_library(tmp_path):
    """Eight processes of two threads start at once: one compiles, all have the same loss."""
    code = textwrap.dedent(LOSS.format(name="cubed", power=3)) + textwrap.dedent("""
        from concurrent.futures import ThreadPoolExecutor
        x, t = torch.tensor([0.5, 2.0]), torch.tensor([1.0, -1.0])
        with ThreadPoolExecutor(2) as threads:
            print([f.result().item() for f in [threads.submit(cubed, x, t) for _ in range(2)]])
    """)
    started = [run(code, tmp_path) for _ in range(8)]
    done = [process.communicate(timeout=300) for process in started]
    assert [out.strip() for out, _ in done] == ["[13.5625, 13.5625]"] * 8
    assert sum("compiling cubed" in said for _, said in done) == 1
    assert len(list(tmp_path.rglob("*.so"))) == 1
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(("build_", "entry_"))]


def test_built_ahead_it_needs_no_compiler(tmp_path):
    """Compiled by the command; then, without a compiler, fused and without a warning, which would be an error."""
    code = textwrap.dedent(LOSS.format(name="fifth", power=5))
    (tmp_path / "mine.py").write_text(code)
    command = f"from fused_losses.custom.__main__ import main; main(['build', {str(tmp_path / 'mine.py')!r}])"
    out, said = run(command, tmp_path).communicate(timeout=300)
    assert out.startswith(f"{tmp_path / 'mine.py'}: fifth\nfolder     {tmp_path}"), said
    code += textwrap.dedent("""
        x = torch.tensor([0.5, 2.0], requires_grad=True)
        loss = fifth(x, torch.tensor([1.0, -1.0]))
        print(loss.item(), loss.grad_fn.name())
    """)
    out, said = run(code, tmp_path, CXX="no-such-compiler").communicate(timeout=300)
    assert out.split() == ["121.515625", "FusedLossBackward"], said


def test_another_torch_needs_no_rebuild(gallery_built, monkeypatch):
    """Neither the key of a loss nor its folder knows the version of torch; the libraries use the stable ABI alone."""
    before = builder.folder(), gallery.log_cosh.custom.op_name
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    monkeypatch.setattr(torch.version, "__version__", "2.99.0")
    environment.cache_clear()
    again = custom.elementwise(gallery.log_cosh.reference)
    assert (builder.folder(), again.custom.op_name) == before
    assert not re.search(r"cu\d|cpu|py3", before[0].relative_to(os.environ["TORCH_EXTENSIONS_DIR"]).parts[0])
    library = builder.find(before[1])
    symbols = subprocess.run(["nm", "-DC", "--undefined-only", library], capture_output=True, text=True).stdout
    assert "aoti_torch_" in symbols
    assert not re.search(r"\b(at|c10)::", symbols), "symbols of torch's C++ interface change with its version"


def test_no_text_of_a_user_reaches_a_command_or_a_file_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("FUSED_LOSSES_CUSTOM_ISA", "native")
    commands = []
    monkeypatch.setattr(builder, "_run", lambda command: commands.append(command) or Path(command[-1]).touch())
    evil = "größe"  # beyond ASCII; and a keyword of C++
    made = custom.elementwise(lambda größe, int: größe * int, name=evil)
    builder.build({made.custom.op_name: made.custom.functor})
    assert commands
    assert all(isinstance(part, str) and evil not in part for command in commands for part in command)
    assert evil not in made.source
    assert made.source.isascii()
    names = [p.name for p in tmp_path.rglob("*") if p.is_file()]
    assert names
    assert all(re.fullmatch(r"(custom_)?[0-9a-f]{16}\.cpu\.(so|so\.lock|json)", name) for name in names), names


def test_without_a_compiler_it_is_plain_pytorch(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(loss, "_warned", [])
    namespace = {"__name__": __name__}
    exec(textwrap.dedent(LOSS.format(name="fourth", power=4)), namespace)
    fourth, x = namespace["fourth"], torch.randn(5, dtype=torch.float64, requires_grad=True)
    t = torch.ones(5, dtype=torch.float64)
    with pytest.warns(UserWarning, match="fourth runs as plain PyTorch, since no C\\+\\+ compiler was found"):
        got = fourth(x, t, margin=2.0)
    torch.testing.assert_close(got, torch.relu(2 - x).pow(4).mean())
    assert torch.autograd.gradcheck(fourth, (x, t))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(fourth(x.detach(), t, reduction="sum"), torch.relu(1 - x).pow(4).sum())


def test_build_ahead(tmp_path, monkeypatch, gallery_built):
    file = tmp_path / "mine.py"
    file.write_text((ROOT / "tests" / "gallery.py").read_text())
    assert custom.build(file)[:2] == ["log_cosh", "quantile"]  # found by content: nothing is compiled
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ValueError, match=r"build: expected a file that defines custom losses, got .*empty.py"):
        custom.build(empty)
    with pytest.raises(FileNotFoundError, match="build: expected a Python file"):
        custom.build(tmp_path / "none.py")


def test_loads_again_at_once(gallery_built):
    """A process that finds its library spends no more than a tenth of a second of its own on it."""
    code = """
        import time, torch
        from fused_losses import custom
        import gallery
        x = torch.zeros(4, requires_grad=True)
        begin = time.process_time()
        gallery.log_cosh(x, x)
        print(time.process_time() - begin)
    """
    out, said = run(code, Path(os.environ["TORCH_EXTENSIONS_DIR"]), PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}").communicate()
    assert float(out) < 0.1, said


def test_threads_share_one_loss(gallery_built):
    x, t = torch.randn(2, 1000)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: gallery.quantile(x, t).item(), range(8)))
    assert len(set(found)) == 1


def test_functional_losses_of_torch_are_formulas():
    @custom.elementwise
    def mixed(input, target):
        return F.huber_loss(input, target, reduction="none", delta=2.0) + F.mse_loss(input, target, reduction="none")

    assert "sigmoid" not in mixed.source
    assert "Terms<A>" in mixed.source
