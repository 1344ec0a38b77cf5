"""Expected BLEU against sacrebleu for certain models and against counting over all sentences for uncertain ones."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from sacrebleu.metrics import BLEU
from tolerances import assert_agrees

import fused_losses.functional as F


def certain(hypothesis, vocabulary):
    """Logits (1, T, V) of a model sure of each token."""
    logits = torch.full((1, len(hypothesis), vocabulary), -1e4)
    logits[0, range(len(hypothesis)), hypothesis] = 1e4
    return logits


def sentences(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        vocabulary = draw.choice((3, 8))
        lengths = draw.randint(1, 14), draw.randint(1, 14)
        yield vocabulary, *([draw.randrange(vocabulary) for _ in range(n)] for n in lengths)


@pytest.mark.parametrize("smooth", [0.3, 1.0])
@pytest.mark.parametrize("max_order", [1, 2, 4])
def test_certain_model_gives_sentence_bleu(max_order, smooth, device):
    bleu = BLEU(
        smooth_method="add-k", smooth_value=smooth, max_ngram_order=max_order, effective_order=True, tokenize="none"
    )
    bleu.effective_order = False
    for vocabulary, hypothesis, reference in sentences(60, 0):
        words = [" ".join(f"w{i}" for i in tokens) for tokens in (hypothesis, reference)]
        expected = 1 - bleu.sentence_score(words[0], [words[1]]).score / 100
        found = F.expected_bleu_loss(
            certain(hypothesis, vocabulary).to(device),
            torch.tensor([reference], device=device),
            max_order=max_order,
            smooth=smooth,
        )
        assert found.item() == pytest.approx(expected, abs=1e-5), (hypothesis, reference)


def expected_counts(p, gram):
    """E[count of gram] by summing over every sentence the model can say."""
    positions, vocabulary = p.shape
    total = 0.0
    for sentence in itertools.product(range(vocabulary), repeat=positions):
        probability = math.prod(p[t, w].item() for t, w in enumerate(sentence))
        total += probability * sum(sentence[t : t + len(gram)] == gram for t in range(positions - len(gram) + 1))
    return total


def test_uncertain_model_by_enumeration():
    positions, vocabulary, reference, smooth = 4, 3, (0, 1, 0, 1, 2), 0.5
    logits = torch.randn(1, positions, vocabulary, dtype=torch.float64)
    p = logits[0].softmax(1)
    log_precision = 0.0
    for n in (1, 2, 3):
        grams = [reference[i : i + n] for i in range(len(reference) - n + 1)]
        k = smooth if n > 1 else 0
        matches = sum(min(expected_counts(p, g), grams.count(g)) for g in set(grams))
        log_precision += math.log((matches + k) / (positions - n + 1 + k)) / 3
    expected = 1 - math.exp(1 - 5 / 4) * math.exp(log_precision)
    found = F.expected_bleu_loss(logits, torch.tensor([reference]), max_order=3, smooth=smooth)
    assert_agrees(found, torch.tensor(expected, dtype=torch.float64), n_terms=60)


def test_lengths_equal_cutting():
    """Beyond the lengths nothing is read: NaN logits and tokens outside the vocabulary change nothing."""
    logits, target = torch.randn(3, 7, 5), torch.randint(5, (3, 6))
    t_lengths, u_lengths = torch.tensor([7, 4, 1]), torch.tensor([3, 6, 2])
    spoiled, tokens = logits.clone(), target.clone()
    for b in range(3):
        spoiled[b, t_lengths[b] :] = float("nan")
        tokens[b, u_lengths[b] :] = -100
    spoiled.requires_grad_()
    found = F.expected_bleu_loss(
        spoiled, tokens, logits_lengths=t_lengths, target_lengths=u_lengths.int(), reduction="none"
    )
    found.sum().backward()
    for b in range(3):
        piece = logits[b : b + 1, : t_lengths[b]].clone().requires_grad_()
        expected = F.expected_bleu_loss(piece, target[b : b + 1, : u_lengths[b]])
        expected.backward()
        assert_agrees(found[b], expected, n_terms=42)
        assert_agrees(spoiled.grad[b, : t_lengths[b]], piece.grad[0], n_terms=42)
        assert (spoiled.grad[b, t_lengths[b] :] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_unigram_match(dtype):
    logits = certain([0, 0, 0], 4).to(dtype).requires_grad_()
    loss = F.expected_bleu_loss(logits, torch.tensor([[1, 2, 3]]))
    loss.backward()
    assert loss.item() == 1
    assert (logits.grad == 0).all()


def test_nothing_said_and_nothing_to_say():
    empty = torch.zeros(2, 0, dtype=torch.int64)
    assert F.expected_bleu_loss(torch.zeros(2, 3, 5), empty).item() == 1
    assert F.expected_bleu_loss(torch.zeros(2, 0, 5), torch.zeros(2, 4, dtype=torch.int64)).item() == 1
    assert F.expected_bleu_loss(torch.zeros(0, 3, 5), torch.zeros(0, 4, dtype=torch.int64)).isnan()


def test_perfect_sentence():
    tokens = [3, 1, 4, 1, 5, 2, 6, 5]
    assert F.expected_bleu_loss(certain(tokens, 7), torch.tensor([tokens])).item() == pytest.approx(0, abs=1e-6)
