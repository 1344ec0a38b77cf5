"""One nn.Module for each loss: names, defaults, options, buffers, pickling, repr."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch
from cases import each_case, each_in, each_variant
from problems import as_tuple
from tolerances import assert_agrees
from torch.nn.utils import parametrize

import fused_losses
from fused_losses import functional as F

OF_TORCH = {
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "mse_loss": "MSELoss",
    "l1_loss": "L1Loss",
    "huber_loss": "HuberLoss",
    "smooth_l1_loss": "SmoothL1Loss",
    "cross_entropy": "CrossEntropyLoss",
    "kl_div": "KLDivLoss",
    "sigmoid_focal_loss": "SigmoidFocalLoss",
    "dice_loss": "DiceLoss",
    "gaussian_kl": "GaussianKLLoss",
}
CLASSES = [
    value for value in vars(fused_losses).values() if isinstance(value, type) and issubclass(value, torch.nn.Module)
]
MODULES = {module.function.__name__: module for module in CLASSES}


def make(problem, **override):
    """The Module with the problem's options, and the tensors of its forward."""
    cls = MODULES[problem.case.name]
    arguments = {**problem.arguments, **override}
    options = {n: v for n, v in arguments.items() if n not in cls.tensors}
    return cls(**options), [arguments.get(n) for n in cls.tensors if n in arguments]


def call(module, tensors, problem):
    names = [n for n in type(module).tensors if n in problem.arguments]
    if names == list(type(module).tensors)[: len(names)]:
        return as_tuple(module(*tensors))
    return as_tuple(module(**{n: problem.arguments[n] for n in names}))


def test_one_module_for_each_function():
    functions = [module.function.__name__ for module in CLASSES]
    assert sorted(functions) == sorted(F.__all__)
    assert {module.__name__ for module in CLASSES} <= set(fused_losses.__all__)
    for module in CLASSES:
        assert module.function is getattr(F, module.function.__name__)
        assert module.__doc__


@pytest.mark.parametrize("function, name", OF_TORCH.items())
def test_names_of_torch(function, name):
    assert MODULES[function].__name__ == name


@pytest.mark.parametrize("function", sorted(MODULES))
def test_name_is_the_functions_in_camel_case(function):
    name = MODULES[function].__name__
    assert name.lower().endswith(("loss", "distance"))
    if function not in OF_TORCH and not function.startswith("weighted_binary"):
        assert name.lower().removesuffix("loss") == function.replace("_", "").removesuffix("loss")


@pytest.mark.parametrize("function", sorted(MODULES))
def test_defaults_are_the_functions(function):
    module = MODULES[function]
    mine = inspect.signature(module).parameters
    for name, parameter in inspect.signature(getattr(F, function)).parameters.items():
        if name in module.tensors:
            assert name not in mine
        elif (function, name) == ("sigmoid_focal_loss", "reduction"):
            assert mine[name].default == "mean"
        else:
            assert mine[name].default == parameter.default, name


@pytest.mark.parametrize("function", sorted(MODULES))
def test_signatures(function):
    """The class shows its options, its `forward` the tensors, by the function's names and defaults."""
    module, parameters = MODULES[function], inspect.signature(getattr(F, function)).parameters
    tensors = inspect.signature(module.forward).parameters
    assert list(tensors) == ["self", *module.tensors]
    assert all(tensors[name].default == parameters[name].default for name in module.tensors)
    options = inspect.signature(module).parameters
    assert [*module.tensors, *options] == sorted(parameters, key=[*module.tensors, *options].index)


@pytest.mark.promise(
    "Where a loss is called from", "A Module's call takes its tensors, each once; an option there is a TypeError."
)
def test_what_a_call_does_not_take():
    x, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    criterion = fused_losses.CrossEntropyLoss()
    with pytest.raises(TypeError, match=r"CrossEntropyLoss.forward\(\) got an unexpected keyword argument 'weight'"):
        criterion(x, target, weight=torch.ones(3))
    with pytest.raises(TypeError, match=r"CrossEntropyLoss.forward\(\) got multiple values for argument 'input'"):
        criterion(x, target, input=x)
    for given, says in (({"weight": torch.ones(3)}, "unexpected keyword argument 'weight'"),
                        ({"input": x}, "multiple values for argument 'input'")):  # fmt: skip
        with pytest.raises(TypeError, match=says):
            F.explain(criterion, x, target, **given)
    assert torch.equal(criterion(target=target, input=x), F.cross_entropy(x, target))


@pytest.mark.parametrize("delta", [np.float64(0.5), np.float32(0.5), np.int64(1)])
def test_a_numpy_scalar_is_a_number_also_where_it_is_compiled(delta):
    criterion, x, t = fused_losses.HuberLoss(delta=delta), *torch.randn(2, 4, 3)
    expected = F.huber_loss(x, t, delta=float(delta))
    assert type(criterion.delta) in (int, float)
    torch.testing.assert_close(criterion(x, t), expected)
    torch.testing.assert_close(torch.compile(criterion, backend="aot_eager", fullgraph=True)(x, t), expected)


def test_subclass():
    """A user's own subclass of a loss inherits its function, options and tensors."""

    class Halved(fused_losses.HuberLoss):
        def forward(self, input, target):
            return super().forward(input, target) / 2

    x, t = torch.randn(2, 5)
    torch.testing.assert_close(Halved(delta=0.5)(x, t), F.huber_loss(x, t, delta=0.5) / 2)
    assert repr(Halved(delta=0.5)) == "Halved(delta=0.5)"


def test_a_weight_assigned_later_is_a_buffer():
    """As in torch's Modules: it moves with .to() and is in the state_dict, where None is not."""
    module = fused_losses.BCEWithLogitsLoss()
    assert not module.state_dict()
    module.pos_weight = torch.ones(3)
    assert list(module.state_dict()) == ["pos_weight"]
    assert module.to("meta").pos_weight.is_meta


def test_a_buffer_may_be_left_out_of_the_state_or_registered_as_in_torch():
    module, weight = fused_losses.BCEWithLogitsLoss(), torch.ones(3)
    module.weight = torch.nn.Buffer(weight, persistent=False)
    assert (list(module.state_dict()), [n for n, _ in module.named_buffers()]) == ([], ["weight"])
    module.register_buffer("weight", weight)
    assert list(module.state_dict()) == ["weight"]
    module.weight = None
    assert (list(module.state_dict()), module.weight) == ([], None)


def test_a_buffer_assigned_again_is_in_the_state_if_it_was():
    """As in torch's Modules; an option that was no buffer is in the state."""
    module, weight = fused_losses.BCEWithLogitsLoss(), torch.ones(3)
    for persistent in (False, True):
        module.register_buffer("weight", weight, persistent)
        module.weight = torch.zeros(3)
        assert list(module.state_dict()) == ["weight"] * persistent
        assert not module.weight.any()
    module.register_buffer("weight", weight, persistent=False)
    for value in (None, weight):
        module.weight = value
    assert list(module.state_dict()) == ["weight"]


@pytest.mark.promise("Where a loss is called from", "A tensor assigned to an option of a Module later is a buffer.")
def test_an_alpha_assigned_later_is_a_buffer():
    module = fused_losses.SoftmaxFocalLoss(alpha=0.5)
    module.alpha = torch.rand(3)
    assert list(module.state_dict()) == ["alpha"]
    assert module.to("meta").alpha.is_meta


@pytest.mark.promise(
    "Where a loss is called from",
    "An option of a Module may become of another kind: a buffer, a parameter, a number, None.",
)
def test_an_option_may_become_of_another_kind():
    """A buffer, a parameter, a number, None: what it was before leaves no trace."""
    module = fused_losses.SoftmaxFocalLoss(alpha=torch.rand(3))
    x, t = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    for value, buffers, parameters in (
        (0.5, [], []),
        (torch.rand(3), ["alpha"], []),
        (torch.nn.Parameter(torch.rand(3)), [], ["alpha"]),
        (torch.rand(3), ["alpha"], []),
        (None, [], []),
    ):
        module.alpha = value
        assert module.alpha is value
        assert [n for n, _ in module.named_buffers()] == buffers
        assert [n for n, _ in module.named_parameters()] == parameters
        torch.testing.assert_close(module(x, t), F.softmax_focal_loss(x, t, value))


@pytest.mark.promise(
    "Where a loss is called from",
    "A subclass of a Module with an `__init__` of its own shows that signature.",
)
def test_a_subclass_shows_its_own_signature():
    class Scheduled(fused_losses.HuberLoss):
        def __init__(self, start, stop=2.0):
            super().__init__(delta=start)
            self.stop = stop

    assert list(inspect.signature(Scheduled).parameters) == ["start", "stop"]
    assert list(inspect.signature(fused_losses.HuberLoss).parameters) == ["reduction", "delta", "weight"]
    assert Scheduled(0.5).delta == 0.5


@each_variant
def test_same_as_the_function(case, variant, device):
    problem = case.problem(variant, torch.float32, device)
    for reduction in case.reductions:
        module, tensors = make(problem, **({} if reduction is None else {"reduction": reduction}))
        for a, b in zip(call(module, tensors, problem), as_tuple(problem.call(None, reduction))):
            assert torch.equal(a, b)


@each_variant
def test_pickle_copy_and_repr(case, variant):
    problem = case.problem(variant)
    module, tensors = make(problem)
    want = call(module, tensors, problem)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(other) is type(module)
        for a, b in zip(call(other, tensors, problem), want):
            assert torch.equal(a, b)
    text = repr(module)
    assert text.startswith(type(module).__name__ + "(")
    for name, value in problem.options.items():
        if name in type(module).tensors:
            continue
        default = inspect.signature(type(module)).parameters[name].default
        if isinstance(value, torch.Tensor):
            assert f"{name}=" in text or f"({name})" in text
            assert "tensor([" not in text, "values do not belong into a repr"
        elif value != default:
            assert f"{name}={value!r}" in text


@pytest.mark.promise(
    "Where a loss is called from",
    "A copy of a Module shares its ProcessGroup, and nothing else; with a DeviceMesh it can be pickled too.",
)
@pytest.mark.parametrize("kind", ["ProcessGroup", "DeviceMesh"])
def test_copies_of_a_module_with_a_group(kind, mesh):
    group = mesh if kind == "DeviceMesh" else mesh.get_group()
    module = fused_losses.SupConLoss(temperature=torch.nn.Parameter(torch.tensor(0.5)), group=group)
    z, labels = torch.eye(3), torch.tensor([0, 1, 0])
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Sequential(module)).module[0]
    twins = [copy.copy(module), copy.deepcopy(module), averaged]
    if kind == "DeviceMesh":
        twins.append(pickle.loads(pickle.dumps(module)))
    else:
        assert all(twin.group is group for twin in twins)
        with pytest.raises(TypeError, match="SupConLoss: expected a group that can be pickled, a DeviceMesh or None"):
            pickle.dumps(module)
    assert [twin.temperature is module.temperature for twin in twins] == [True, *[False] * (len(twins) - 1)]
    for twin in twins:
        assert torch.equal(twin(z, labels), module(z, labels))


def test_a_deep_copy_of_a_compiled_module_is_compiled():
    model = torch.nn.ModuleDict({"loss": torch.compile(fused_losses.MSELoss(weight=torch.ones(3)), backend="eager")})
    twin = copy.deepcopy(model)
    assert type(twin["loss"]) is type(model["loss"])
    twin.load_state_dict(model.state_dict())


def test_a_copy_keeps_what_a_module_refers_to():
    """Two of one are one in the copy, and so is what refers to itself."""
    loss = fused_losses.MSELoss(weight=torch.ones(3))
    pair = torch.nn.ModuleList([loss, loss])
    loss.owner = [loss]
    twin = copy.deepcopy(pair)
    assert twin[0] is twin[1] is twin[0].owner[0] is not loss
    assert twin[0].weight is not loss.weight


@each_variant
def test_tensor_options_are_buffers(case, variant):
    """They move with .to(), are in the state_dict, and survive a load into a fresh Module."""
    problem = case.problem(variant)
    module, _ = make(problem)
    held = {n: v for n, v in problem.arguments.items() if isinstance(v, torch.Tensor) and n not in type(module).tensors}
    buffers = dict(module.named_buffers())
    assert set(buffers) == set(held)
    state = module.state_dict()
    moved = copy.deepcopy(module).to("meta")
    for name, value in held.items():
        assert torch.equal(state[name], value)
        assert getattr(moved, name).device.type == "meta"
        if value.is_floating_point():
            assert getattr(copy.deepcopy(module).double(), name).dtype is torch.float64
    fresh, _ = make(problem.map(lambda _, t: torch.zeros_like(t)))
    fresh.load_state_dict(state)
    for name, value in held.items():
        assert torch.equal(getattr(fresh, name), value)


@each_case
def test_no_parameters_of_its_own(case):
    module, _ = make(case.problem())
    assert list(module.parameters()) == []
    assert module.train(True).training


@each_in("mahalanobis")
def test_mean_and_factor_may_be_learned(case):
    problem = case.problem()
    learned = {n: torch.nn.Parameter(problem.tensors[n].clone()) for n in ("mean", "scale_tril")}
    module, tensors = make(problem, **learned)
    assert {n for n, _ in module.named_parameters()} == {"mean", "scale_tril"}
    module(*tensors).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


class Lower(torch.nn.Module):
    def forward(self, factor):
        return factor.tril()

    def right_inverse(self, factor):
        return factor


@pytest.mark.parametrize("kind", [torch.nn.Parameter, torch.nn.Buffer])
def test_a_parametrized_factor_may_be_assigned(kind):
    """As in torch's Modules: the tensor below the parametrization gets the value."""
    x, y, mean, factor = torch.randn(4, 3), torch.tensor([1, 0, 1, 0]), torch.zeros(3), torch.eye(3)
    module = fused_losses.MahalanobisLoss(mean, kind(factor))
    parametrize.register_parametrization(module, "scale_tril", Lower())
    given = 2 * factor + torch.ones(3, 3)
    module.scale_tril = given
    assert torch.equal(module.scale_tril, given.tril())
    assert torch.equal(module.parametrizations.scale_tril.original, given)
    torch.testing.assert_close(module(x, y), F.mahalanobis_loss(x, y, mean, given.tril()))
    parametrize.remove_parametrizations(module, "scale_tril", leave_parametrized=kind is torch.nn.Parameter)
    module.scale_tril = kind(factor)
    assert "scale_tril" in module.state_dict()
    torch.testing.assert_close(module(x, y), F.mahalanobis_loss(x, y, mean, factor))


@pytest.mark.parametrize("function", sorted(MODULES))
def test_unknown_option(function):
    module = MODULES[function]
    needed = [n for n, p in inspect.signature(module).parameters.items() if p.default is inspect.Parameter.empty]
    with pytest.raises(TypeError, match=f"^{module.__name__}: .*no_such_option"):
        module(**dict.fromkeys(needed, torch.zeros(())), no_such_option=1)


@each_case
def test_training_step(case):
    """A Module behind a layer: the layer's gradient is the one that the loss's own gradient gives by the chain rule."""
    problem = case.problem()
    module, tensors = make(problem)
    layer = torch.nn.Linear(1, 1, bias=False)
    tensors = list(tensors)
    position = list(type(module).tensors).index(case.fused[0])
    values = tensors[position]
    with torch.no_grad():
        layer.weight.fill_(1.0)
    tensors[position] = values * layer.weight.view(())
    sum(part.sum() for part in as_tuple(module(*tensors))).backward()
    leaf = tensors[position] = values.clone().requires_grad_()
    sum(part.sum() for part in as_tuple(module(*tensors))).backward()
    terms = leaf.grad.double() * values.double()  # of a loss of unit rows they cancel
    assert_agrees(layer.weight.grad.view(()), terms.sum(), n_terms=values.numel(), at_least=terms.abs().sum().item())
