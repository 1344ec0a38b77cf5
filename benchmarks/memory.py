"""Peak extra memory of one rival, on the CPU in a fresh process: python -m benchmarks.memory '<json request>'.

Reported: the highest sum of live tensors above the inputs (torch's own allocation records on the CPU,
max_memory_allocated on CUDA), and on the CPU the growth of the resident set, which also sees what no tensor owns.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def peak_memory(case, shape, dtype: str, device: str, rival: str, form: str, threads: int) -> dict:
    """{"both": bytes, "both_rss": bytes, "inference": bytes, "inference_rss": bytes}.

    On the CPU in a child process; on CUDA here, where the allocator's own mark is exact in any process.
    """
    request = dict(
        case=case.key, shape=list(shape), dtype=dtype, device=device, rival=rival, form=form, threads=threads
    )
    if device == "cuda":
        return main(request)
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", json.dumps(request)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if child.returncode:
        raise RuntimeError(child.stderr.strip().splitlines()[-1] if child.stderr.strip() else "no message")
    return json.loads(child.stdout.strip().splitlines()[-1])


def live_peak(run) -> int:
    """Highest sum of the tensors allocated and not yet freed while `run` runs, beginning at 0."""
    from torch.autograd.profiler import profile

    with profile(profile_memory=True, use_cpu=True) as record:
        run()
    live = peak = 0
    for event in sorted(record.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def resident_growth(run) -> int:
    """Growth of the highest resident set while `run` runs; 0 where the kernel lets nobody reset the mark."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    before = resident("VmRSS")
    run()
    return max(0, resident("VmHWM") - before)


def main(request: dict) -> dict:
    import ctypes

    import torch

    from . import rivals
    from .cases import cases

    torch.set_num_threads(request["threads"])
    case = next(c for c in cases([request["case"]], request["device"]) if c.key == request["case"])
    device = torch.device(request["device"])
    tensors = case.inputs(tuple(request["shape"]), getattr(torch, request["dtype"]), device)
    form = rivals.forms(case, request["rival"])[request["form"]]
    found = {}
    for phase in ("both", "inference"):
        key = rivals.Key(request["rival"], request["dtype"], inference=phase == "inference")
        call = rivals.make_call(case, form, tensors, key)
        if not key.inference:
            rivals.with_ones(call)

        def run(call=call):
            return call.run().shape

        run()
        call.prepare()
        if device.type == "cuda":
            run()
            call.prepare()
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            torch.cuda.synchronize()
            found[phase] = torch.cuda.max_memory_allocated() - before
            continue
        found[phase] = live_peak(run)
        call.prepare()
        ctypes.CDLL(None).malloc_trim(0)
        found[f"{phase}_rss"] = resident_growth(run)
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
