"""torch.func, forward mode, torch.compile, torch.export: each gives what eager autograd gives."""

from __future__ import annotations

import inspect

import pytest
import torch
from cases import BY_NAME, each_case, each_in
from problems import Variant, as_tuple, gradients, total, variant
from tolerances import assert_agrees
from torch.autograd import forward_ad

import fused_losses

pytestmark = pytest.mark.not_emulated


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


def of_first(problem, reduction=None, reduce=total):
    """The loss as a function of its first trained argument, and that argument's value."""
    name = problem.case.fused[0]
    return (lambda value: reduce(problem.call(None, reduction, **{name: value}))), problem.arguments[name]


def eager_gradient(problem, reduction=None):
    function, value = of_first(problem, reduction)
    leaf = value.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


@each_case
def test_func_grad(case, device):
    problem = case.problem(None, torch.float32, device)
    for reduction in case.reductions:
        function, value = of_first(problem, reduction)
        found, seen = torch.func.grad_and_value(function)(value)
        assert_agrees(found, eager_gradient(problem, reduction).double(), n_terms=problem.n_terms)
        assert_agrees(seen, function(value).double(), n_terms=problem.n_terms)


@each_case
def test_func_vmap(case, device):
    """A batch of problems at once, mapped over every tensor; and the gradient of each."""
    problems = [case.problem(None, torch.float32, device, seed=s) for s in range(3)]
    names = list(problems[0].tensors)
    stacked = [torch.stack([p.tensors[n] for p in problems]) for n in names]

    def loss(*tensors):
        return total(problems[0].call(None, case.reduced(), **dict(zip(names, tensors))))

    found = torch.func.vmap(loss)(*stacked)
    want = torch.stack([total(p.call(None, case.reduced())) for p in problems])
    assert_agrees(found, want.double(), n_terms=64)
    per_sample = torch.func.vmap(torch.func.grad(loss, argnums=names.index(case.fused[0])))(*stacked)
    for row, p in zip(per_sample, problems):
        assert_agrees(row, eager_gradient(p, case.reduced()).double(), n_terms=64)


@each_case
def test_func_jvp(case, device):
    """Forward mode: the directional derivative is the gradient's inner product, by torch.func and by dual tensors."""
    problem = case.problem(None, torch.float64, device)
    function, value = of_first(problem, case.reduced())
    tangent = torch.randn_like(value)
    want = (eager_gradient(problem, case.reduced()) * tangent).sum()
    _, found = torch.func.jvp(function, (value,), (tangent,))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-11)
    with forward_ad.dual_level():
        out = function(forward_ad.make_dual(value, tangent))
        dual = forward_ad.unpack_dual(out).tangent
    assert dual is not None
    torch.testing.assert_close(dual, want, rtol=1e-9, atol=1e-11)


@each_case
def test_func_jacobian_and_hessian(case, device):
    problem = case.problem(None, torch.float64, device, case.tiny, seed=5)
    function, value = of_first(problem, case.reduced())
    unreduced, _ = of_first(problem, case.reductions[0], lambda result: as_tuple(result)[0])
    backward = torch.func.jacrev(unreduced)(value)
    forward = torch.func.jacfwd(unreduced)(value)
    torch.testing.assert_close(backward, forward, rtol=1e-8, atol=1e-10)
    functorch = torch.func.hessian(function)(value)
    double_backward = torch.autograd.functional.hessian(function, value)
    torch.testing.assert_close(functorch, double_backward, rtol=1e-7, atol=1e-9)


def compiled_agrees(case, problem, reduction, **options):
    names = [n for n in problem.floating() if n in case.fused]
    options = {"fullgraph": True, **options}
    compiled = torch.compile(lambda **arguments: case.function(**arguments), **options)
    got, got_gradients = gradients(problem, names, compiled, reduction, "scalar")
    want, want_gradients = gradients(problem, names, None, reduction, "scalar")
    for a, b in zip((*got, *got_gradients.values()), (*want, *want_gradients.values())):
        assert a.dtype is b.dtype
        assert_agrees(a, b.double(), n_terms=problem.n_terms)


@each_case
def test_compile(case, device):
    for reduction in {case.reductions[0], case.reduced()}:
        compiled_agrees(case, case.problem(None, torch.float32, device), reduction, backend="aot_eager")


@each_in("representative")
def test_compile_by_inductor(case, device):
    """Between other operations, so that the graph around the op is compiled too."""
    problem = case.problem(None, torch.float32, device)
    first = case.fused[0]

    def step(value):
        result = total(case.function(**{**problem.arguments, first: value * 0.5 + 0.25}))
        return result * 2 + value.mean()

    results = []
    for function in (step, torch.compile(step, fullgraph=True)):
        leaf = problem.arguments[first].clone().requires_grad_()
        loss = function(leaf)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for a, b in zip(*results):
        assert_agrees(a, b.double(), n_terms=problem.n_terms)


@each_in("representative")
def test_compile_with_dynamic_shapes(case, device):
    """One graph serves several sizes."""
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(case.function, fullgraph=True, dynamic=True, backend=counting)
    for rows in (4, 6, 9):
        problem = case.problem(None, torch.float32, device, (rows, *case.shape[1:]))
        for a, b in zip(as_tuple(problem.call(compiled)), as_tuple(problem.call())):
            assert_agrees(a, b.double(), n_terms=problem.n_terms)
    assert len(graphs) == 1
    assert f"fused_losses.{case.name}." in graphs[0].code, "the op is compiled, not its reference"


@each_case
def test_compile_of_func_grad(case, device):
    problem = case.problem(None, torch.float32, device)
    function, value = of_first(problem, case.reduced())
    found = torch.compile(torch.func.grad(function), backend="aot_eager", fullgraph=True)(value)
    assert_agrees(found, eager_gradient(problem, case.reduced()).double(), n_terms=problem.n_terms)


@pytest.mark.parametrize(
    "name, given",
    [
        ("sigmoid_focal_loss", variant("weights", weight=lambda m, s: m.uniform((s[1], 1, 1)), gamma=0.5)),
        ("dice_loss", variant("index", {"target": "index"}, activation="softmax")),
        ("cross_entropy", variant("weight", weight=lambda m, s: m.uniform((s[1],), 0.5, 1.0), label_smoothing=0.1)),
        ("gaussian_kl", variant("prior", prior_mu=lambda m, s: m.normal(s))),
    ],
)
def test_compile_with_options(name, given, device):
    compiled_agrees(BY_NAME[name], BY_NAME[name].problem(given, torch.float32, device), "sum", backend="aot_eager")


@each_case
def test_compiled_errors_stay_errors(case, device):
    """A wrong argument raises under torch.compile too, naming the loss."""
    problem = case.problem(None, torch.float32, device)
    last = list(problem.tensors)[-1]
    wrong = torch.zeros(2, 2, 2, 2, 2, 9, device=device)
    with pytest.raises(Exception, match=f"{case.name}: expected"):
        torch.compile(case.function, backend="eager")(**{**problem.arguments, last: wrong})


MODULES = {
    module.function.__name__: module
    for module in vars(fused_losses).values()
    if isinstance(module, type) and issubclass(module, torch.nn.Module)
}


def assert_same(case, exported, eager):
    """The same op gives the same bits; what is compiled normalises embeddings by plain PyTorch before it."""
    if "normalize" in inspect.signature(getattr(fused_losses.functional, case.name)).parameters:
        torch.testing.assert_close(exported, eager)
    else:
        assert torch.equal(exported, eager)


@pytest.mark.promise("Values and gradients", "An exported program has the loss's values and first derivatives.")
@each_case
def test_export(case, device):
    """torch.export of the Module gives a program with the same values and gradients; of second ones it has none."""
    problem = case.problem(Variant("default"), torch.float32, device)
    module = MODULES[case.name]
    options = {n: problem.tensors[n] for n in problem.tensors if n not in module.tensors}
    loss = module(**options)
    inputs = tuple(problem.tensors[n] for n in module.tensors if n in problem.tensors)
    program = torch.export.export(loss, inputs)
    assert f"fused_losses.{case.name}." in program.graph_module.code, "the op is exported, not its reference"
    for a, b in zip(as_tuple(program.module()(*inputs)), as_tuple(loss(*inputs))):
        assert_same(case, a, b)
    names = [n for n in module.tensors if n in problem.tensors]
    leaves = [t.clone().requires_grad_(n in case.fused) for n, t in zip(names, inputs)]
    wanted = [t for t in leaves if t.requires_grad]
    found, expected = (sum(r.sum() for r in as_tuple(f(*leaves))) for f in (program.module(), loss))
    again = torch.autograd.grad(found, wanted, retain_graph=True)
    for a, b in zip(again, torch.autograd.grad(expected, wanted)):
        assert_agrees(a, b.double(), n_terms=problem.n_terms)
    with pytest.raises(
        RuntimeError, match=f"^{case.name}: expected one derivative of an exported program, got a second"
    ):
        torch.autograd.grad(found, wanted, create_graph=True)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_trains(strict):
    """The loss's part of the gradient is there beside another's, however the model was traced."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.criterion = torch.nn.Linear(5, 5), fused_losses.CrossEntropyLoss()

        def forward(self, x, y):
            hidden = self.layer(x)
            return self.criterion(hidden, y) + 0.01 * hidden.square().mean()

    model, x, y = Model(), torch.randn(4, 5), torch.randint(0, 5, (4,))
    program = torch.export.export(model, (x, y), strict=strict).module()
    found, expected = (torch.autograd.grad(m(x, y), list(m.parameters())) for m in (program, model))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


@each_case
def test_export_with_a_dynamic_batch(case):
    """One exported program serves any batch; dynamic_shapes takes the names of the loss's tensors."""
    module, small = MODULES[case.name], case.problem()
    large = case.problem(shape=(2 * case.shape[0] + 1, *case.shape[1:]), seed=1)
    loss = module(**{n: small.tensors[n] for n in small.tensors if n not in module.tensors})
    names = [n for n in module.tensors if n in small.tensors]
    shapes = {n: {0: torch.export.Dim("batch")} if n in case.tile else None for n in names}
    program = torch.export.export(loss, tuple(small.tensors[n] for n in names), dynamic_shapes=shapes)
    given = [large.tensors[n] for n in names]
    for a, b in zip(as_tuple(program.module()(*given)), as_tuple(loss(*given))):
        assert_same(case, a, b)


@each_case
def test_tensor_subclass_takes_the_reference(case):
    """A subclass is served, by the reference."""

    class Marked(torch.Tensor):
        pass

    problem = case.problem()
    name = case.fused[0]
    marked = problem.arguments[name].as_subclass(Marked)
    got = as_tuple(problem.call(None, case.reduced(), **{name: marked}))
    want = as_tuple(problem.call(None, case.reduced()))
    for a, b in zip(got, want):
        assert_agrees(a.as_subclass(torch.Tensor), b.double(), n_terms=problem.n_terms)
