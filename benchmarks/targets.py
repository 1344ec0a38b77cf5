"""The bars every measurement is held against, in one table, and the check that says met or missed by how much.

Ratios are of one run; of several runs the median counts. Eager is the fastest of the reference, the forms people
commonly write and torch's own op; torch.compile is the fastest of these forms compiled. The bars were set from
measurements of those rivals but for the forms of lean.py, which came later.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace

from . import cases

# case: (times as fast as eager, times as fast as torch.compile); CPU, 2 threads, float32, cold, forward + backward
CPU = {
    "sigmoid_focal_loss": (20, 5),
    "weighted_binary_cross_entropy_with_logits": (8, 3),
    "binary_cross_entropy_with_logits": (5, 3),
    "kl_div": (7.5, 2.3),
    "gaussian_kl": (7, 1.7),
    "dice_loss": (3.5, 2),
    "dice_loss+indices": (8, 2.5),
    "dice_cross_entropy_loss": (10, 3.5),
    "softmax_focal_loss": (2.7, 2.6),
    "cross_entropy": (2.7, 2.5),
    "cross_entropy+128k": (2.7, 2.5),
    "kl_div_with_logits": (5.5, 2.5),
    "js_div_with_logits": (16, 3.2),
    "contrastive_loss": (4, 1.6),
    "tversky_loss": (5, 2),
    "vae_loss": (12, 2.2),
    "mse_loss": (2, 1.5),
    "l1_loss": (2, 1.5),
    "huber_loss": (2, 1.5),
    "hinge_loss": (2, 1.5),
    "mahalanobis_distance": (2.5, 2.5),
    "mahalanobis_loss": (2.5, 2.5),
    "approx_ndcg_loss": (10, None),
    "lambda_ndcg_loss": (20, None),
    "expected_bleu_loss": (3, None),
}

# the same on CUDA at 2^26 elements, cold L2
CUDA_ELEMENTS = 1 << 26
CUDA = {
    "binary_cross_entropy_with_logits": (None, 1.6),
    "sigmoid_focal_loss": (20, 1.6),
    "softmax_focal_loss": (None, 1.6),
    "cross_entropy": (None, 2),
    "kl_div_with_logits": (None, 2),
    "dice_loss+indices": (None, 3.5),
}
CUDA_COPY_PERCENT = 90  # of the copy's bandwidth, in floor bytes, for every loss bound by memory
CUDA_SMALL_ELEMENTS = 1 << 14
CUDA_SMALL = (2, 4)  # wall time against eager, torch.compile

WIDEST_FIRST = ("avx512", "avx2", "default")  # of the instruction sets that a loss was measured with the first counts

CALL_COST = 1.25  # 64 elements against F.mse_loss; what has sums and more tensors:
CALL_COST_OF_SUMS = 1.5
BFLOAT16 = 1.3  # bfloat16 time over float32 time
AVX2 = 1.5  # AVX2 time over AVX-512 time
GRADIENT_MEMORY = 1.01  # peak of forward + backward over the gradients
INFERENCE_MEMORY = 0.01  # peak of a forward without gradient over the input
RANKING_MEMORY = 0.02  # peak over the eager form's
COMPUTE_BOUND = (
    "approx_ndcg_loss",
    "lambda_ndcg_loss",
    "expected_bleu_loss",
    "mahalanobis_distance",
    "mahalanobis_loss",
    "linear_cross_entropy",
    "linear_kl_div",
    "linear_js_div",
    "info_nce_loss",
    "clip_loss",
    "siglip_loss",
    "nt_xent_loss",
    "sup_con_loss",
    "multi_similarity_loss",
    "triplet_batch_hard_loss",
)


@dataclass(frozen=True)
class Verdict:
    """One comparison: `value` must be at least `bar` (or at most, with `upper`)."""

    what: str
    value: float
    bar: float
    upper: bool = False
    low: float = 0.0  # least and largest of several runs
    high: float = 0.0
    copied: float | None = None  # the ratio to a rival that a copy of the floor's bytes would have

    @property
    def met(self) -> bool:
        return self.value <= self.bar if self.upper else self.value >= self.bar

    @property
    def bound(self) -> str:
        return "at most" if self.upper else "at least"

    @property
    def missed_by(self) -> str:
        return "" if self.met else f"{abs(self.value / self.bar - 1) * 100:.0f} %"

    def __str__(self):
        outcome = "met   " if self.met else "MISSED"
        spread = f" ({self.low:.3g} to {self.high:.3g})" if self.low < self.high else ""
        return f"{outcome}  {self.what}: {self.value:.3g}{spread}, {self.bound} {self.bar:g} {self.missed_by}".rstrip()


def _seconds(rows, **wanted):
    """Median seconds by rival of the rows that match."""
    return {r["rival"]: r["median_s"] for r in rows if all(r[k] == v for k, v in wanted.items())}


def check(rows: list[dict]) -> list[Verdict]:
    """Every bar that can be checked: from rows of one run each, then the median of the runs."""
    rows = [r for r in rows if r["phase"] in ("both", "inference")]
    groups = {}
    for r in rows:
        groups.setdefault((r["loss"], r["elements"], r["device"], r["run"]), []).append(r)
    found = []
    for (loss, elements, device, _run), group in groups.items():
        both = [r for r in group if r["phase"] == "both" and r["incoming"] == "one"]
        if not any(r["rival"] == "fused" for r in both):
            continue
        if device == "cuda":
            found += _cuda(loss, elements, both)
        else:
            found += _cpu(loss, elements, both)
        found += _memory(loss, elements, group)
    runs = {}
    for verdict in found:
        runs.setdefault(verdict.what, []).append(verdict)
    return [_median(verdicts) for verdicts in runs.values()]


def _median(verdicts: list[Verdict]) -> Verdict:
    values = [verdict.value for verdict in verdicts]
    copied = [verdict.copied for verdict in verdicts if verdict.copied]
    return replace(
        verdicts[0], value=statistics.median(values), low=min(values), high=max(values),
        copied=statistics.median(copied) if copied else None,
    )  # fmt: skip


def _main_isa(rows):
    return [r for r in rows if r["rival"] != "fused" or r["isa"] == _best_isa(rows)]


def _best_isa(rows):
    used = {r["isa"] for r in rows if r["rival"] == "fused"}
    return next((isa for isa in WIDEST_FIRST if isa in used), next(iter(used)))


def _cpu(loss, elements, both):
    found = []
    cold = _seconds(_main_isa(both), mode="cold", dtype="float32")
    label = f"{loss}, {elements} elements"
    if "fused" in cold and loss in CPU and elements >= 1 << 14:
        bars = dict(zip(("eager", "compile"), CPU[loss]))
        if "torch" in cold:
            cold["eager"] = min(cold["torch"], cold.get("eager", math.inf))
        copy = None if loss in COMPUTE_BOUND else _copy_seconds(_main_isa(both))
        for rival, bar in bars.items():
            if bar and rival in cold:
                ratio, copied = cold[rival] / cold["fused"], copy and cold[rival] / copy
                found.append(Verdict(f"{label}: cold, {rival} / fused", ratio, bar, copied=copied))
    if elements >= 1 << 20:
        half = _seconds(_main_isa(both), mode="cold", dtype="bfloat16")
        if "fused" in half and "fused" in cold:
            found.append(Verdict(f"{label}: bfloat16 / float32", half["fused"] / cold["fused"], BFLOAT16, upper=True))
        isa = {
            r["isa"]: r["median_s"] for r in both if (r["rival"], r["mode"], r["dtype"]) == ("fused", "cold", "float32")
        }
        if "avx2" in isa and "avx512" in isa:
            found.append(Verdict(f"{label}: AVX2 / AVX-512", isa["avx2"] / isa["avx512"], AVX2, upper=True))
    hot = _seconds(_main_isa(both), mode="hot", dtype="float32")
    if "fused" in hot and "mse_loss" in hot and elements == 64:
        bar = CALL_COST if cases.by_key(loss).elementwise else CALL_COST_OF_SUMS
        found.append(Verdict(f"{label}: fused / F.mse_loss", hot["fused"] / hot["mse_loss"], bar, upper=True))
    times = hot or cold
    if "fused" in times and "eager" in times:
        found.append(Verdict(f"{label}: never slower than eager", times["eager"] / times["fused"], 1.0))
    return found


def _copy_seconds(rows) -> float | None:
    """Of a copy of as many bytes as the floor of the loss, cold, float32."""
    for r in rows:
        if (r["rival"], r["mode"], r["dtype"]) == ("fused", "cold", "float32") and r["copy_percent"] not in ("", None):
            return r["median_s"] * r["copy_percent"] / 100
    return None


def _cuda(loss, elements, both):
    found = []
    label = f"{loss}, {elements} elements"
    if elements >= CUDA_ELEMENTS * 0.9:
        cold = _seconds(both, mode="cold", dtype="float32")
        eager, compiled = CUDA.get(loss, (None, None))
        rival = min((cold[name] for name in ("eager", "torch") if name in cold), default=None)
        if eager and rival:
            found.append(Verdict(f"{label}: eager / fused", rival / cold["fused"], eager))
        if compiled and "compile" in cold:
            found.append(Verdict(f"{label}: compile / fused", cold["compile"] / cold["fused"], compiled))
        if loss not in COMPUTE_BOUND:
            for r in both:
                if r["rival"] == "fused" and r["mode"] == "cold":
                    what = f"{label}, {r['dtype']}: percent of the copy"
                    found.append(Verdict(what, r["copy_percent"], CUDA_COPY_PERCENT))
    wall = _seconds(both, mode="wall", dtype="float32")
    if "fused" in wall and CUDA_SMALL_ELEMENTS * 0.8 <= elements <= CUDA_SMALL_ELEMENTS:
        for name, bar in zip(("eager", "compile"), CUDA_SMALL):
            if name in wall:
                found.append(Verdict(f"{label}: wall time, {name} / fused", wall[name] / wall["fused"], bar))
    return found


def _memory(loss, elements, group):
    found = []
    label = f"{loss}, {elements} elements"
    measured = [r for r in group if r["dtype"] == "float32" and r.get("peak_bytes", "") != ""]
    peak = {(r["rival"], r["phase"]): r for r in measured}
    both, inference = peak.get(("fused", "both")), peak.get(("fused", "inference"))
    if both and elements >= 1 << 20:
        extra = both["peak_bytes"] / both["gradient_bytes"]
        found.append(Verdict(f"{label}: peak memory / gradients", extra, GRADIENT_MEMORY, upper=True))
    if inference and elements >= 1 << 20:
        share = inference["peak_bytes"] / inference["input_bytes"]
        found.append(Verdict(f"{label}: memory of inference / input", share, INFERENCE_MEMORY, upper=True))
    eager = peak.get(("eager", "both"))
    if both and eager and loss in ("approx_ndcg_loss", "lambda_ndcg_loss"):
        share = both["peak_bytes"] / eager["peak_bytes"]
        found.append(Verdict(f"{label}: peak memory / eager's", share, RANKING_MEMORY, upper=True))
    return found
