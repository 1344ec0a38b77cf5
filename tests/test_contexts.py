"""Where a loss is called from: transforms that have ended, forward mode in the backward, tracers, modes,
tensor subclasses, sharded tensors."""

from __future__ import annotations

import inspect
import pickle
import traceback
from typing import ClassVar

import pytest
import torch
from cases import BY_NAME, each_case
from problems import as_tuple, differentiable, incoming
from tolerances import assert_agrees
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import fused_losses
from fused_losses import functional as F


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


def gradient_of_first(problem, change=lambda value: value, reduction=None):
    """The gradient of the first trained argument, which is changed on its way into the loss."""
    name = problem.case.fused[0]
    leaf = problem.arguments[name].detach().clone().requires_grad_()
    outputs = as_tuple(problem.call(None, reduction, **{name: change(leaf)}))
    torch.autograd.backward(outputs, incoming(outputs, "one"))
    return leaf.grad


def escaped(value):
    """`value` as it looks after the torch.func transform that it was seen in has ended."""
    seen = []
    torch.func.grad(lambda x: (seen.append(x), x.sum())[1])(value)
    return seen[0]


@pytest.mark.promise(
    "Where a loss is called from",
    "A tensor that escaped from a finished transform of torch.func keeps its gradient.",
)
@each_case
def test_a_tensor_that_escaped_from_a_transform_keeps_its_gradient(case):
    problem = case.problem()
    found = gradient_of_first(problem, escaped, case.reduced())
    assert found is not None
    assert torch.equal(found, gradient_of_first(problem, reduction=case.reduced()))


@pytest.mark.promise(
    "Where a loss is called from",
    "Forward-mode tangents of an incoming gradient pass through the backward.",
)
@pytest.mark.parametrize("create_graph", [False, True])
@each_case
def test_tangents_of_the_incoming_gradient(case, create_graph):
    """The gradient is linear in the incoming one, so its tangent is the gradient for the incoming tangent."""
    problem = case.problem(None, torch.float64)
    name = case.fused[0]
    for reduction in case.reductions:
        mine = problem.leaves([name])
        leaf, outputs = mine.arguments[name], differentiable(mine.call(None, reduction))
        ones = incoming(outputs, "one")
        tangents = incoming(outputs, "tensor")
        want = torch.autograd.grad(outputs, leaf, tangents, retain_graph=True)[0]
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(one, tangent) for one, tangent in zip(ones, tangents)]
            (found,) = torch.autograd.grad(outputs, leaf, duals, create_graph=create_graph)
            tangent = forward_ad.unpack_dual(found).tangent
        assert tangent is not None, reduction
        torch.testing.assert_close(tangent, want, rtol=1e-9, atol=1e-11)


@pytest.mark.promise("Where a loss is called from", "`torch.jit.trace` records a loss with its gradients.")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@each_case
def test_jit_trace_with_gradients(case):
    problem = case.problem(None, torch.float64)
    first = case.fused[0]
    leaf = problem.arguments[first].clone().requires_grad_()

    def total(value):
        return sum(loss.sum() for loss in as_tuple(problem.call(None, case.reduced(), **{first: value})))

    torch.jit.trace(total, leaf)(leaf).backward()
    torch.testing.assert_close(leaf.grad, gradient_of_first(problem, reduction=case.reduced()))


class Seen(TorchFunctionMode):
    """Records the functions that are dispatched, outermost first."""

    def __init__(self):
        super().__init__()
        self.functions = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.functions.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.promise("Where a loss is called from", "A TorchFunctionMode sees one call, that of the loss.")
@each_case
def test_a_mode_sees_the_loss(case):
    problem = case.problem()
    want = as_tuple(problem.call())
    with Seen() as seen:
        found = as_tuple(problem.call())
    assert seen.functions == [case.function]
    assert all(torch.equal(a, b) for a, b in zip(found, want))


@pytest.mark.promise("Where a loss is called from", "A subclass of Tensor sees the loss, whichever argument is one.")
@each_case
def test_a_subclass_sees_the_loss(case):
    """Whichever of the tensors is one; the arguments arrive as they were given."""

    class Named(torch.Tensor):
        seen: ClassVar[list] = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.seen.append((function, len(args) + len(kwargs or {})))
            return function

    problem = case.problem()
    for name, value in problem.tensors.items():
        result = problem.call(**{name: value.as_subclass(Named)})
        assert result is case.function, name
    assert all(function is case.function for function, _ in Named.seen)


@each_case
def test_functions_are_those_that_were_written(case):
    """Signature, names, help; both pickle by name, refuse alike, and a traceback shows the line that refused."""
    plain, fused = case.reference, case.function
    assert inspect.signature(fused) == inspect.signature(plain)
    assert fused.reference is plain
    assert fused.__name__ == plain.__name__ == case.name
    assert plain.__doc__.endswith(fused.__doc__)
    for function in (fused, plain):
        assert pickle.loads(pickle.dumps(function)) is function
        with pytest.raises(TypeError, match=case.name) as caught:
            function(**dict.fromkeys(case.problem().tensors, 1.0))
        assert f"check_first('{case.name}'" in "".join(traceback.format_exception(caught.value))


@pytest.mark.promise(
    "Where a loss is called from",
    "`torch.fx.symbolic_trace` keeps the call of the loss with its options.",
)
def test_symbolic_trace():
    """torch.fx keeps the call of the loss, with its options, by its name."""

    class Model(torch.nn.Module):
        def forward(self, input, target):
            return F.dice_loss(input * 2, target, squared=True)

    traced = torch.fx.symbolic_trace(Model())
    (node,) = [node for node in traced.graph.nodes if node.target is F.dice_loss]
    assert node.kwargs["squared"] is True
    x, t = torch.randn(2, 3, 5), torch.rand(2, 3, 5)
    assert torch.equal(traced(x, t), F.dice_loss(x * 2, t, squared=True))
    alone = fused_losses.DiceLoss(squared=True)
    assert torch.equal(torch.fx.symbolic_trace(alone)(x, t), alone(x, t))


@pytest.mark.promise(
    "Where a loss is called from",
    "A backward compiled to free its graph refuses a later one that retains it by torch's own error, as of "
    "torch's losses; one compiled to retain it is right each time.",
)
def test_a_compiled_backward_before_one_that_retains():
    """Compiled for a backward that frees, an intermediate's memory is reused, and torch says so later: of its own
    losses, and of these, whose gradient is an intermediate. What retains from the start is right each time."""
    problem = BY_NAME["binary_cross_entropy_with_logits"].problem()
    name = "input"
    want = gradient_of_first(problem, reduction="mean")

    def passes(function, *retained, donated=True):
        torch._dynamo.reset()
        leaf = problem.arguments[name].clone().requires_grad_()
        with torch._functorch.config.patch(donated_buffer=donated):
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
            for retain in retained:
                loss = compiled(leaf, problem.arguments["target"])
                for _ in range(1 + retain):
                    leaf.grad = None
                    loss.backward(retain_graph=retain)
                    torch.testing.assert_close(leaf.grad, want)

    ours = F.binary_cross_entropy_with_logits
    for function in (ours, torch.nn.functional.binary_cross_entropy_with_logits):
        with pytest.raises(RuntimeError, match="donated buffers which requires create_graph=False and retain_graph"):
            passes(function, False, True)
    passes(ours, True, True, False)
    passes(ours, False, True, donated=False)


@pytest.mark.promise(
    "Where a loss is called from",
    "Hooks on saved tensors (`save_on_cpu`, a checkpoint without reentry) see all that a loss keeps; first and second "
    "derivatives are right under them.",
)
@each_case
def test_hooks_on_saved_tensors(case):
    problem = case.problem(dtype=torch.float64)
    names = [n for n in case.fused if n in problem.arguments and problem.arguments[n] is not None]
    leaves = {n: problem.arguments[n].detach().clone().requires_grad_() for n in names}

    def derivatives():
        outputs = as_tuple(problem.call(None, case.reduced(), **leaves))
        held = [getattr(o.grad_fn, "gradients", None) for o in outputs]
        grads = incoming(outputs, "one")
        first = torch.autograd.grad(outputs, list(leaves.values()), grads, retain_graph=True)
        again = torch.autograd.grad(outputs, list(leaves.values()), grads, create_graph=True)
        length = sum((g**2).sum() for g in again)
        second = torch.autograd.grad(length, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return held, first, second

    _, first, second = derivatives()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        held, hooked_first, hooked_second = derivatives()
    assert held == [None] * len(held)
    torch.testing.assert_close(hooked_first, first)
    torch.testing.assert_close(hooked_second, second)


def test_a_checkpoint_keeps_no_gradient():
    """What lives between forward and backward: no logits, and not their gradient."""
    x, y = torch.randn(8, 5, requires_grad=True), torch.randint(5, (8,))

    def chunk(x):
        return F.cross_entropy(x * 2, y, reduction="sum")

    loss = torch.utils.checkpoint.checkpoint(chunk, x, use_reentrant=False)
    assert chunk(x).grad_fn.gradients is not None
    assert loss.grad_fn.gradients is None
    (found,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found, 2 * (torch.softmax(2 * x.detach(), 1) - torch.nn.functional.one_hot(y, 5)))


@pytest.mark.promise("Where a loss is called from", "A compiled call may be given the same tensor twice.")
@pytest.mark.parametrize("name", ["mse_loss", "gaussian_kl", "clip_loss"])
def test_compile_of_the_same_tensor_twice(name):
    same = torch.rand(4, 3)
    calls = {
        "mse_loss": lambda a: F.mse_loss(a, same, weight=same),
        "gaussian_kl": lambda a: F.gaussian_kl(a, a),
        "clip_loss": lambda a: F.clip_loss(a, a, 2.0),
    }
    found = []
    for call in (calls[name], torch.compile(calls[name], backend="aot_eager", fullgraph=True)):
        a = torch.linspace(-1, 1, 12).view(4, 3).requires_grad_()
        loss = call(a)
        found.append((loss.detach(), torch.autograd.grad(loss, a)[0]))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.promise("Where a loss is called from", "A compiled call may choose its rows by a mask.")
@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits", "sigmoid_focal_loss"])
def test_compile_of_rows_chosen_by_a_mask(name):
    """Their number is known at run time alone."""

    def call(x, t, weight, chosen):
        return getattr(F, name)(x[chosen], t[chosen], weight=weight[chosen], reduction="sum")

    tensors = *(torch.rand(6, 3) for _ in range(3)), torch.tensor([True, False, True, True, False, True])
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        torch.testing.assert_close(compiled(*tensors), call(*tensors))


@pytest.mark.promise("Where a loss is called from", "The backward itself may be compiled, with `fullgraph=True`.")
def test_compiled_autograd():
    x, y = torch.randn(4, 5, requires_grad=True), torch.randint(5, (4,))
    (want,) = torch.autograd.grad(torch.nn.functional.cross_entropy(x, y), x)
    with torch._dynamo.compiled_autograd._enable(
        lambda graph: torch.compile(graph, backend="aot_eager", fullgraph=True)
    ):
        F.cross_entropy(x, y).backward()
    torch.testing.assert_close(x.grad, want)


@pytest.mark.promise(
    "Where a loss is called from",
    "A gradient taken within a compiled call, or by compiled autograd, has its derivative.",
)
@pytest.mark.parametrize("how", ["backward", "graph of both"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives_of_a_compiled_gradient(how, reduction):
    x, y = torch.randn(4, 5), torch.randint(5, (4,))

    def call(x):
        return F.cross_entropy(x, y, reduction=reduction).sum()

    def penalised(call, x):
        loss = call(x)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + slope.square().sum()

    def gradient(penalised, call):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(penalised(call, leaf), leaf)[0]

    want = gradient(penalised, lambda x: torch.nn.functional.cross_entropy(x, y, reduction=reduction).sum())
    torch._dynamo.reset()
    if how == "backward":
        with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
            found = gradient(penalised, call)
    elif not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch.compile takes no gradient into its graph")
    else:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            found = gradient(torch.compile(penalised, backend="eager", fullgraph=True), call)
    torch.testing.assert_close(found, want)


@pytest.mark.promise("Where a loss is called from", "On the meta device a loss has its shape and dtype, as everywhere.")
@each_case
def test_meta_tensors(case):
    problem = case.problem()
    elsewhere = problem.map(lambda _, t: t.to("meta"))
    for reduction in case.reductions:
        there = elsewhere.call(None, reduction)
        for a, b in zip(as_tuple(there), as_tuple(problem.call(None, reduction))):
            assert (a.shape, a.dtype, a.device.type) == (b.shape, b.dtype, "meta")


class Marked(torch.Tensor):
    """Dispatches as a plain tensor does, and marks results."""


@pytest.mark.promise("Where a loss is called from", "Subclasses of Tensor pass under `torch.compile(fullgraph=True)`.")
@pytest.mark.parametrize("kind", ["two", "marked"])
@pytest.mark.parametrize("name", ["mse_loss", "sigmoid_focal_loss", "cross_entropy", "dice_loss", "mahalanobis_loss"])
def test_compile_of_tensor_subclasses(name, kind):
    """By the reference, whose operations the subclass knows."""
    case = BY_NAME[name]
    problem = case.problem()

    def wrap(value):
        return TwoTensor(value.clone(), value.clone()) if kind == "two" else value.as_subclass(Marked)

    tensors = {n: wrap(t) for n, t in problem.tensors.items()}
    tensors[case.fused[0]].requires_grad_()
    backend = "aot_eager" if kind == "two" else "eager"  # torch's own mse_loss of the other fails under aot_eager
    compiled = torch.compile(case.function, fullgraph=True, backend=backend)
    loss = compiled(**{**tensors, **problem.options, "reduction": "sum"})
    assert type(loss) is (TwoTensor if kind == "two" else Marked)
    loss.backward()
    value = loss.a if kind == "two" else loss.as_subclass(torch.Tensor)
    assert_agrees(value.detach(), problem.call(None, "sum").double(), n_terms=problem.n_terms)
    found = tensors[case.fused[0]].grad
    found = found.a if kind == "two" else found.as_subclass(torch.Tensor)
    assert_agrees(found, gradient_of_first(problem, reduction="sum").double(), n_terms=problem.n_terms)


@pytest.mark.promise(
    "Where a loss is called from", "A profiler, and a dispatch mode, see the op of a loss by its name."
)
@each_case
def test_a_profiler_and_a_mode_see_the_op(case):
    problem, seen = case.problem(), []

    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        problem.call()
    with Seeing():
        problem.call()
    name = f"fused_losses::{case.name}"
    assert name in {event.key for event in profiled.key_averages()}
    assert name in seen


@pytest.mark.promise("What is taken", "A tensor whose values are negated when they are read, or zeros nobody wrote.")
def test_values_that_are_not_in_memory():
    """Kernels read memory: what the dispatcher would have written is there before."""
    pair = torch.randn(5, dtype=torch.complex64, requires_grad=True)
    target, zeros = torch.randn(5), torch._efficientzerotensor((5,))
    negated = torch.imag(pair.conj())
    assert negated.is_neg()
    found, expected = F.mse_loss(negated, target), torch.nn.functional.mse_loss(negated, target)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, pair) for loss in (found, expected)))
    torch.testing.assert_close(F.mse_loss(negated.detach(), target), expected.detach())
    torch.testing.assert_close(F.mse_loss(target, zeros), target.square().mean())


@pytest.mark.promise(
    "Where a loss is called from",
    "Losses of elements, classes, divergences and regions of DTensors are computed by operations that have a rule for "
    "sharding.",
)
@pytest.mark.parametrize(
    "name",
    ["binary_cross_entropy_with_logits", "weighted_binary_cross_entropy_with_logits", "sigmoid_focal_loss",
     "binary_cross_entropy", "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "hinge_loss", "cross_entropy",
     "softmax_focal_loss", "kl_div", "kl_div_with_logits", "js_div_with_logits", "gaussian_kl", "dice_loss",
     "jaccard_loss", "tversky_loss", "dice_cross_entropy_loss", "dice_focal_loss"],
)  # fmt: skip
def test_sharded_tensors(name, mesh):
    """Each such loss of DTensors, by operations that have a rule for sharding."""
    from torch.distributed.tensor import Shard, distribute_tensor

    case = BY_NAME[name]
    problem = case.problem()
    sharded = {n: distribute_tensor(t, mesh, [Shard(0)]) for n, t in problem.tensors.items()}
    leaf = sharded[case.fused[0]].requires_grad_()
    loss = case.function(**{**sharded, "reduction": "sum"})
    loss.backward()
    assert_agrees(loss.full_tensor().detach(), problem.call(None, "sum").double(), n_terms=problem.n_terms)
    want = gradient_of_first(problem, reduction="sum").double()
    assert_agrees(leaf.grad.full_tensor(), want, n_terms=problem.n_terms)
