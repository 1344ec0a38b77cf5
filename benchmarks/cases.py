"""The list of benchmark cases: every loss of the library, what it is measured on, and whom it is measured against.

A case whose loss is not (yet) public is skipped by `cases()`. One unit of the floor is one read or write of one tensor
of the first tensor's size; the floor reads every tensor `passes` times and writes every gradient once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Callable

import torch
import torch.nn.functional as F_torch

import fused_losses.functional as F
from fused_losses import reference

from . import chains

DEFAULT_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Case:
    """One loss on one kind of input.

    shape: default shape of the first tensor; shape_of(n): the same kind of shape with about n elements.
    make(shape, dtype, device, generator): the tensors by argument name; those in `leaves` require a gradient.
    chains: the forms people commonly write; torch_op: torch's own op for just this loss; all take the same arguments.
    """

    key: str
    shape: tuple[int, ...]
    shape_of: Callable[[int], tuple[int, ...]]
    make: Callable
    leaves: tuple[str, ...] = ("input",)
    keywords: dict = field(default_factory=dict)
    chains: tuple[Callable, ...] = ()
    torch_op: Callable | None = None
    passes: int = 1
    largest: int = 1 << 40  # elements beyond which the reference's temporaries fill a small machine (CUDA: 16 times)
    only: str = ""  # the one device it is measured on, if not all

    @property
    def loss(self) -> str:
        """The public name; the key adds a variant after "+"."""
        return self.key.partition("+")[0]

    def inputs(self, shape, dtype=torch.float32, device="cpu", seed=0) -> dict[str, torch.Tensor]:
        """Fresh leaf tensors, the same for the same seed."""
        generator = torch.Generator(device).manual_seed(seed)
        tensors = self.make(shape, dtype, torch.device(device), generator)
        return {name: t.detach().requires_grad_(name in self.leaves) for name, t in tensors.items()}

    def bytes_of(self, tensors: dict) -> tuple[int, int]:
        """Bytes of all inputs, and of all gradients: the least extra memory of forward + backward."""
        size = {name: t.numel() * t.element_size() for name, t in tensors.items()}
        return sum(size.values()), sum(size[name] for name in self.leaves)

    def floor_bytes(self, tensors: dict) -> int:
        """Bytes that the best implementation moves in forward + backward with an incoming gradient of 1."""
        inputs, gradients = self.bytes_of(tensors)
        return self.passes * inputs + gradients

    @property
    def elementwise(self) -> bool:
        """A result for each element, before the reduction."""
        return self.shape_of is flat

    @property
    def fused(self) -> Callable:
        return getattr(F, self.loss)

    @property
    def reference(self) -> Callable:
        return getattr(reference, self.loss)


# ---- shapes of about n elements


def flat(n):
    return (n,)


def rows(columns):
    return lambda n: (max(1, n // columns), min(columns, n))


def labelled_rows(columns):
    """Eight rows at least: fewer have no pair to learn from."""
    return lambda n: (max(8, n // columns), max(1, min(columns, n // 8)))


def maps(batch, channels):
    def shape(n):
        c = min(channels, n)
        b = min(batch, n // c)
        return (b, c, max(1, n // (b * c)))

    return shape


def sentences(n):
    steps = min(64, max(1, math.isqrt(n)))
    vocabulary = min(32_000, n // steps)
    return (max(1, n // (steps * vocabulary)), steps, vocabulary)


# ---- inputs


def _randn(shape, dtype, device, generator):
    return torch.randn(shape, device=device, generator=generator).to(dtype)


def _rand(shape, dtype, device, generator):
    return torch.rand(shape, device=device, generator=generator).to(dtype)


def _bits(shape, dtype, device, generator):
    return torch.randint(0, 2, shape, device=device, generator=generator).to(dtype)


def logits_and_bits(shape, *like):
    return {"input": _randn(shape, *like), "target": _bits(shape, *like)}


def logits_and_integers(kind):
    """As `logits_and_bits`, with a mask of that dtype whatever the input's."""

    def make(shape, *like):
        return {"input": _randn(shape, *like), "target": _bits(shape, *like).to(kind)}

    return make


def logits_bits_and_pos_weight(shape, dtype, device, generator):
    tensors = logits_and_bits(shape, dtype, device, generator)
    return tensors | {"pos_weight": torch.full((), 3.0, device=device, dtype=dtype)}


def probabilities_and_bits(shape, *like):
    return {"input": _rand(shape, *like).clamp(1e-3, 1 - 1e-3), "target": _bits(shape, *like)}


def two_normals(shape, *like):
    return {"input": _randn(shape, *like), "target": _randn(shape, *like)}


def scores_and_signs(shape, *like):
    return {"input": _randn(shape, *like), "target": _bits(shape, *like) * 2 - 1}


def logits_and_classes(shape, dtype, device, generator):
    target = (shape[0], *shape[2:])
    classes = torch.randint(0, shape[1], target, device=device, generator=generator)
    return {"input": _randn(shape, dtype, device, generator), "target": classes}


def logits_classes_and_weight(shape, dtype, device, generator):
    tensors = logits_and_classes(shape, dtype, device, generator)
    return tensors | {"class_weight": torch.rand(shape[1], device=device, generator=generator) + 0.5}


def log_probabilities(shape, dtype, device, generator):
    like = (torch.float32, device, generator)
    input, target = _randn(shape, *like).log_softmax(-1), _randn(shape, *like).softmax(-1)
    return {"input": input.to(dtype), "target": target.to(dtype)}


def two_gaussians(shape, *like):
    return {"mu": _randn(shape, *like), "logvar": _randn(shape, *like)}


def autoencoder(shape, *like):
    latent = (shape[0], 32)
    return {
        "reconstruction": _rand(shape, *like).clamp(1e-3, 1 - 1e-3),
        "target": _rand(shape, *like),
        "mu": _randn(latent, *like),
        "logvar": _randn(latent, *like),
    }


def embeddings(shape, *like):
    x1 = _randn(shape, *like)
    x2 = x1 + _randn(shape, *like) / math.sqrt(shape[-1])  # distances around the margin of 1
    return {"x1": x1, "x2": x2, "target": _bits(shape[:1], *like)}


def distances(shape, *like):
    return {"distance": _rand(shape, *like) * 2, "target": _bits(shape, *like)}


def points_and_gaussian(shape, dtype, device, generator):
    d = shape[1]
    factor = torch.randn(d, d, device=device, generator=generator).tril(-1) / max(d, 1) + torch.eye(d, device=device)
    like = (dtype, device, generator)
    return {"input": _randn(shape, *like), "mean": _randn((d,), *like), "scale_tril": factor.to(dtype)}


def labelled_points_and_gaussian(shape, *like):
    points = points_and_gaussian(shape, *like)
    return {"input": points.pop("input"), "target": _bits(shape[:1], *like), **points}


def ranked_lists(shape, dtype, device, generator):
    relevance = torch.randint(0, 5, shape, device=device, generator=generator)
    relevance[:, 0] = 4
    return {"scores": _randn(shape, dtype, device, generator), "relevance": relevance.to(dtype)}


def translations(shape, dtype, device, generator):
    target = torch.randint(0, shape[2], shape[:2], device=device, generator=generator)
    return {"logits": _randn(shape, dtype, device, generator), "target": target}


def layer_and_classes(shape, dtype, device, generator):
    """Rows of 512 features and a linear layer; `shape` is that of the logits."""
    n, v = shape
    like = (dtype, device, generator)
    return {
        "input": _randn((n, 512), *like),
        "linear_weight": _randn((v, 512), *like) / 512**0.5,
        "target": torch.randint(0, v, (n,), device=device, generator=generator),
    }


def queries_and_keys(shape, *like):
    n, m = shape
    return {"query": _randn((n, 512), *like), "key": _randn((max(n, m), 512), *like) / 512**0.5}


def student_and_teacher(shape, *like):
    n, v = shape
    return {
        "input": _randn((n, 512), *like),
        "linear_weight": _randn((v, 512), *like) / 512**0.5,
        "teacher_input": _randn((n, 512), *like),
        "teacher_weight": _randn((v, 512), *like) / 512**0.5,
    }


def two_towers(shape, *like):
    unit = torch.nn.functional.normalize
    dtype, device, _ = like
    return {
        "x": unit(_randn(shape, *like), dim=1),
        "y": unit(_randn(shape, *like), dim=1),
        "logit_scale": torch.full((), 14.3, dtype=dtype, device=device),
    }


def two_towers_and_bias(shape, dtype, device, generator):
    bias = torch.full((), -10.0, dtype=dtype, device=device)
    return two_towers(shape, dtype, device, generator) | {"logit_bias": bias}


def two_views(shape, *like):
    return {"z1": _randn(shape, *like), "z2": _randn(shape, *like)}


def labelled_features(shape, dtype, device, generator):
    labels = torch.randint(0, max(shape[0] // 8, 2), shape[:1], device=device, generator=generator)
    return {"features": _randn(shape, dtype, device, generator), "labels": labels}


# ---- the list

_FLAT = ((DEFAULT_ELEMENTS,), flat)
_ROWS = ((4096, 1024), rows(1024))
_MASKS = ((16, 1, 512, 512), maps(16, 1))
_CLASS_MAPS = ((4, 16, 256, 256), maps(4, 16))
_PAIRS = ((16_384, 256), rows(256))
_POINTS = ((65_536, 64), rows(64))
_LISTS = ((32, 1000), rows(1000))

_FROM_INDICES = {"activation": "softmax"}
_WEIGHTS = {"class_weights": (0.7, 2.0)}

ALL = [
    Case("binary_cross_entropy", *_FLAT, probabilities_and_bits, torch_op=F_torch.binary_cross_entropy),
    Case(
        "binary_cross_entropy_with_logits", *_FLAT, logits_and_bits, torch_op=F_torch.binary_cross_entropy_with_logits
    ),
    Case(
        "binary_cross_entropy_with_logits+pos_weight", *_FLAT, logits_bits_and_pos_weight,
        torch_op=F_torch.binary_cross_entropy_with_logits,
    ),
    Case(
        "weighted_binary_cross_entropy", *_FLAT, probabilities_and_bits, keywords=_WEIGHTS,
        chains=(chains.weighted_bce,),
    ),
    Case(
        "weighted_binary_cross_entropy_with_logits", *_FLAT, logits_and_bits, keywords=_WEIGHTS,
        chains=(chains.weighted_bce_with_logits,),
    ),
    Case(
        "sigmoid_focal_loss", *_FLAT, logits_and_bits, keywords={"reduction": "mean"}, chains=(chains.sigmoid_focal,)
    ),
    Case(
        "sigmoid_focal_loss+classes", *_CLASS_MAPS, logits_and_classes, keywords={"reduction": "mean"},
        chains=(chains.sigmoid_focal_from_classes,),
    ),
    Case(
        "sigmoid_focal_loss+int64", *_FLAT, logits_and_integers(torch.int64), keywords={"reduction": "mean"},
        chains=(chains.sigmoid_focal_of_integers,),
    ),
    Case("mse_loss", *_FLAT, two_normals, chains=(chains.mse,), torch_op=F_torch.mse_loss),
    Case("l1_loss", *_FLAT, two_normals, chains=(chains.l1,), torch_op=F_torch.l1_loss),
    Case("huber_loss", *_FLAT, two_normals, torch_op=F_torch.huber_loss),
    Case("smooth_l1_loss", *_FLAT, two_normals, torch_op=F_torch.smooth_l1_loss),
    Case("hinge_loss", *_FLAT, scores_and_signs, chains=(chains.hinge,)),
    Case("cross_entropy", *_ROWS, logits_and_classes, torch_op=F_torch.cross_entropy),
    Case("cross_entropy+128k", (32, 131_072), rows(131_072), logits_and_classes, torch_op=F_torch.cross_entropy),
    Case(
        "cross_entropy+all", *_ROWS, logits_and_classes, keywords={"ignore_index": None},
        torch_op=F_torch.cross_entropy,
    ),
    Case("cross_entropy+maps", *_CLASS_MAPS, logits_and_classes, torch_op=F_torch.cross_entropy),
    Case("cross_entropy+10", (419_430, 10), rows(10), logits_and_classes, torch_op=F_torch.cross_entropy),
    Case("softmax_focal_loss", *_ROWS, logits_and_classes, chains=(chains.softmax_focal,)),
    Case("softmax_focal_loss+maps", *_CLASS_MAPS, logits_and_classes, chains=(chains.softmax_focal,)),
    Case("kl_div", *_ROWS, log_probabilities, keywords={"reduction": "batchmean"}, torch_op=F_torch.kl_div),
    Case("kl_div_with_logits", *_ROWS, two_normals, chains=chains.KL_DIV_WITH_LOGITS),
    Case("js_div_with_logits", *_ROWS, two_normals, chains=chains.JS_DIV_WITH_LOGITS),
    Case("gaussian_kl", *_PAIRS, two_gaussians, leaves=("mu", "logvar"), chains=(chains.gaussian_kl,)),
    Case(
        "vae_loss", (5350, 784), rows(784), autoencoder, leaves=("reconstruction", "mu", "logvar"), chains=(chains.vae,)
    ),
    Case("dice_loss", *_MASKS, logits_and_bits, chains=(chains.dice,), passes=2),
    Case(
        "dice_loss+indices", *_CLASS_MAPS, logits_and_classes, keywords=_FROM_INDICES,
        chains=(chains.dice_from_indices,), passes=2,
    ),
    Case(
        "dice_loss+micro", *_CLASS_MAPS, logits_and_classes, keywords=_FROM_INDICES | {"average": "micro"},
        chains=(chains.dice_from_indices,), passes=2,
    ),
    Case(
        "dice_loss+skip", *_CLASS_MAPS, logits_and_classes, keywords=_FROM_INDICES | {"absent": "skip"},
        chains=(chains.dice_from_indices,), passes=2,
    ),
    Case(
        "dice_loss+zero", *_CLASS_MAPS, logits_and_classes, keywords=_FROM_INDICES | {"absent": "zero"},
        chains=(chains.dice_from_indices,), passes=2,
    ),
    *(Case(f"dice_loss+{name}", *_MASKS, logits_and_integers(kind), chains=(chains.dice,), passes=2)
      for name, kind in (("int64", torch.int64), ("bool", torch.bool))),
    Case("jaccard_loss", *_MASKS, logits_and_bits, chains=(chains.jaccard,), passes=2),
    Case(
        "tversky_loss", *_MASKS, logits_and_bits, keywords={"alpha": 0.3, "beta": 0.7}, chains=(chains.tversky,),
        passes=2,
    ),
    Case("dice_cross_entropy_loss", *_CLASS_MAPS, logits_and_classes, chains=(chains.dice_cross_entropy,), passes=2),
    Case(
        "dice_cross_entropy_loss+weighted", *_CLASS_MAPS, logits_classes_and_weight, keywords={"label_smoothing": 0.1},
        chains=(chains.dice_cross_entropy,), passes=2,
    ),
    Case("dice_focal_loss", *_CLASS_MAPS, logits_and_classes, chains=(chains.dice_focal,), passes=2),
    Case(
        "dice_focal_loss+sigmoid", *_CLASS_MAPS, logits_and_classes, keywords={"focal_activation": "sigmoid"},
        chains=(chains.dice_focal,), passes=2,
    ),
    Case("contrastive_loss", *_PAIRS, embeddings, leaves=("x1", "x2"), chains=chains.CONTRASTIVE),
    Case(
        "contrastive_loss_from_distance", *_FLAT, distances, leaves=("distance",),
        chains=(chains.contrastive_from_distance,),
    ),
    Case("mahalanobis_distance", *_POINTS, points_and_gaussian, chains=chains.MAHALANOBIS_DISTANCE),
    Case("mahalanobis_loss", *_POINTS, labelled_points_and_gaussian, chains=chains.MAHALANOBIS_LOSS),
    Case("approx_ndcg_loss", *_LISTS, ranked_lists, leaves=("scores",), chains=(chains.approx_ndcg,), largest=1 << 16),
    Case("lambda_ndcg_loss", *_LISTS, ranked_lists, leaves=("scores",), largest=1 << 16),
    Case(
        "linear_cross_entropy", (512, 8192), rows(8192), layer_and_classes, leaves=("input", "linear_weight"),
        chains=(chains.linear_cross_entropy,),
    ),
    Case(
        "info_nce_loss", (2048, 2048), rows(2048), queries_and_keys, leaves=("query", "key"), chains=(chains.info_nce,)
    ),
    Case("clip_loss", (1024, 512), rows(512), two_towers, leaves=("x", "y", "logit_scale"), chains=(chains.clip,)),
    Case(
        "siglip_loss", (1024, 512), rows(512), two_towers_and_bias, leaves=("x", "y", "logit_scale", "logit_bias"),
        chains=(chains.siglip,),
    ),
    Case("nt_xent_loss", (512, 128), rows(128), two_views, leaves=("z1", "z2"), chains=(chains.nt_xent,)),
    Case(
        "sup_con_loss", (1024, 128), labelled_rows(128), labelled_features, leaves=("features",),
        chains=(chains.sup_con,),
    ),
    Case("multi_similarity_loss", (1024, 128), labelled_rows(128), labelled_features, leaves=("features",)),
    Case(
        "triplet_batch_hard_loss", (1024, 128), labelled_rows(128), labelled_features, leaves=("features",),
        chains=(chains.batch_hard,),
    ),
    Case(
        "linear_kl_div", (512, 8192), rows(8192), student_and_teacher, leaves=("input", "linear_weight"),
        chains=(chains.linear_kl_div,),
    ),
    Case(
        "linear_js_div", (512, 8192), rows(8192), student_and_teacher, leaves=("input", "linear_weight"),
        chains=(chains.linear_js_div,),
    ),
    Case("expected_bleu_loss", (16, 64, 32_000), sentences, translations, leaves=("logits",)),
]  # fmt: skip

QUICK = ["sigmoid_focal_loss", "softmax_focal_loss", "dice_loss", "contrastive_loss", "kl_div_with_logits"]


for _key in ("cross_entropy", "softmax_focal_loss", "kl_div_with_logits", "js_div_with_logits"):
    _case = next(case for case in ALL if case.key == _key)
    for _label, _columns in (("32k", 32_768), ("128k", 131_072)):
        if f"{_key}+{_label}" not in {case.key for case in ALL}:
            _shape = (DEFAULT_ELEMENTS // _columns, _columns)
            ALL.append(replace(_case, key=f"{_key}+{_label}", shape=_shape, shape_of=rows(_columns), only="cuda"))


def cases(names=None, device="cpu") -> list[Case]:
    """The cases of public losses, all of them or those whose key or loss is in `names`."""
    public = [case for case in ALL if case.loss in F.__all__ and case.only in ("", device)]
    if names is None:
        return public
    known = {case.key for case in ALL} | {case.loss for case in ALL}
    for name in names:
        if name not in known:
            raise ValueError(f"benchmarks: expected a loss among {', '.join(sorted(known))}, got {name!r}")
    return [case for case in public if case.key in names or case.loss in names]


def by_key(key: str) -> Case:
    return next(case for case in ALL if case.key == key)


def unmeasured() -> list[str]:
    """Public losses without a case; there should be none."""
    return sorted(set(F.__all__) - {case.loss for case in ALL})
