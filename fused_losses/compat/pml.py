"""pytorch-metric-learning 2.9.0: losses of the pairs of a batch, with their default distance and reducer."""

from __future__ import annotations

import torch

from .. import functional as F
from .._op import accumulation_dtype
from ._adapter import Adapter, needs
from ._targets import loss_dtype

__all__ = ["ContrastiveLoss", "NTXentLoss", "SupConLoss"]


class _Adapter(Adapter):
    """An adapter whose peer has parts that are made with it: its instance is made anew from the arguments."""

    def as_theirs(self, theirs):
        options = {name: value for name, value in vars(self).items() if name in self.options}
        return theirs(**options, **self.kwargs)


def _check_defaults(loss, distance, inverted, reducer):
    """The loss has the distance and the reducer that it is made with where none are given, and nothing beside."""
    if isinstance(loss, Adapter):
        needs(not loss.kwargs, ", ".join(loss.kwargs))
        return
    given = loss.distance
    plain = (given.normalize_embeddings, given.p, given.power, given.is_inverted) == (True, 2, 1, inverted)
    needs(type(given).__name__ == distance and plain, f"distance={type(given).__name__}")
    found = loss.reducer.reducers.values() if hasattr(loss.reducer, "reducers") else [loss.reducer]
    names = {type(one).__name__ for one in found}
    needs(names == {reducer}, f"reducer={', '.join(names)}")
    needs(loss.embedding_regularizer is None, "embedding_regularizer")
    needs(not loss.collect_stats, "collect_stats=True")


def _labels(embeddings, labels, ref_emb, ref_labels):
    """The labels beside the embeddings of a batch that is compared with itself."""
    needs(ref_emb is None and ref_labels is None, "ref_emb")
    needs(labels is not None, "labels=None")
    return labels.to(embeddings.device)


def _of_all_pairs(embeddings, labels, temperature):
    """The supervised contrastive loss; 0 where there are no positive or no negative pairs. Nothing is synchronised."""
    loss = F.sup_con_loss(embeddings, labels, temperature=temperature)
    ordered = labels.sort().values
    same = ordered[1:] == ordered[:-1]
    return torch.where(same.any() & ~same.all(), loss, 0.0).to(loss_dtype(embeddings))


class NTXentLoss(_Adapter, peer="pytorch_metric_learning.losses.NTXentLoss"):
    """:func:`fused_losses.functional.sup_con_loss` where no label is there more than twice (two views of a sample).

    The labels are read: on a device it is waited for, as the library does.
    """

    options = ("temperature",)

    def __init__(self, temperature=0.07, **kwargs):
        pass

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        _check_defaults(self, "CosineSimilarity", True, "MeanReducer")
        needs(indices_tuple is None, "indices_tuple")
        labels = _labels(embeddings, labels, ref_emb, ref_labels)
        ordered = labels.sort().values
        needs(not bool((ordered[2:] == ordered[:-2]).any()), "more than two of a label")
        return _of_all_pairs(embeddings, labels, self.temperature)


class SupConLoss(_Adapter, peer="pytorch_metric_learning.losses.SupConLoss"):
    """:func:`fused_losses.functional.sup_con_loss`. A row whose loss is rounded to 0 counts in the mean."""

    options = ("temperature",)

    def __init__(self, temperature=0.1, **kwargs):
        pass

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        _check_defaults(self, "CosineSimilarity", True, "AvgNonZeroReducer")
        needs(indices_tuple is None, "indices_tuple")
        return _of_all_pairs(embeddings, _labels(embeddings, labels, ref_emb, ref_labels), self.temperature)


def _mean_of_positive(losses):
    """The mean of the losses above 0; 0 without any."""
    return losses.sum() / (losses > 0).sum().clamp(min=1)


class ContrastiveLoss(_Adapter, peer="pytorch_metric_learning.losses.ContrastiveLoss"):
    """Hinges of all distances of the batch, in plain PyTorch, which holds them.

    No fused loss has hinges of distances that are not squared, nor a mean over the pairs above 0 alone:
    :func:`fused_losses.functional.contrastive_loss` squares them, for pairs of two towers.
    """

    options = ("pos_margin", "neg_margin")

    def __init__(self, pos_margin=0, neg_margin=1, **kwargs):
        pass

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        _check_defaults(self, "LpDistance", False, "AvgNonZeroReducer")
        needs(embeddings.ndim == 2, "embeddings of another shape")
        z = torch.nn.functional.normalize(embeddings.to(accumulation_dtype(embeddings.dtype)))
        if indices_tuple is None:
            labels = _labels(embeddings, labels, ref_emb, ref_labels)
            needs(labels.shape == z.shape[:1], "labels of another shape")
            same = labels.unsqueeze(1) == labels
            near, far = _of_batch(torch.cdist(z, z), same, self.pos_margin, self.neg_margin)
        else:
            needs(ref_emb is None and ref_labels is None, "ref_emb")
            near, far = _of_pairs(z, indices_tuple)
        loss = _mean_of_positive((near - self.pos_margin).relu()) + _mean_of_positive((self.neg_margin - far).relu())
        return loss.to(loss_dtype(embeddings))


def _of_batch(distance, same, pos_margin, neg_margin):
    """All distances twice, those of the other kind and of a row from itself such that they cost nothing."""
    far = distance.masked_fill(same, neg_margin)
    return distance.masked_fill((~same).fill_diagonal_(True), pos_margin), far


def _of_pairs(z, indices):
    """The distances of given pairs, or of both sides of triplets."""
    needs(any(len(part) > 1 for part in indices), "a single pair")
    anchor, positive, other, negative = indices if len(indices) == 4 else (*indices[:2], indices[0], indices[2])
    return ((z[a] - z[b]).norm(dim=1) for a, b in ((anchor, positive), (other, negative)))
