"""Custom losses compiled, found again, and neither: processes, caches, compilers."""

from __future__ import annotations

import os
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

from fused_losses import custom
from fused_losses.custom import builder, loss
from fused_losses.custom.__main__ import main
from fused_losses.custom.environment import environment

ROOT = Path(__file__).parents[1]

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
    with pytest.warns(UserWarning, match="fourth runs as plain PyTorch, since no C\\+\\+ compiler was found") as warned:
        got = fourth(x, t, margin=2.0)
    assert warned[0].filename == __file__  # of the call
    torch.testing.assert_close(got, torch.relu(2 - x).pow(4).mean())
    assert torch.autograd.gradcheck(fourth, (x, t))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(fourth(x.detach(), t, reduction="sum"), torch.relu(1 - x).pow(4).sum())


def test_what_the_compiler_refuses_is_plain_pytorch(tmp_path, monkeypatch):
    refusing = tmp_path / "refusing"
    refusing.write_text("#!/bin/sh\necho no such standard >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(refusing))
    monkeypatch.setattr(loss, "_warned", [])
    made = custom.elementwise(lambda input, target: (input - target) ** 2 + 0.125, name="refused_one")
    x, t = torch.randn(2, 5)
    with pytest.warns(UserWarning, match="refused_one runs as plain PyTorch, since the compiler refused .*\nno such"):
        torch.testing.assert_close(made(x, t), ((x - t) ** 2 + 0.125).mean())


def test_the_compiler_may_have_words_of_its_own(monkeypatch):
    for given, expected in (("env -u A c++", ["env", "-u", "A", "c++"]), ("", ["c++"])):
        monkeypatch.setenv("CXX", given)
        program, *words = builder.compiler()
        assert [Path(program).name, *words] == expected


def test_others_may_read_what_was_built(gallery_built):
    entries = list(builder.folder().glob("custom_*.json"))
    assert entries
    mask = os.umask(0)
    os.umask(mask)
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~mask for path in entries)


def test_a_library_that_is_none_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("FUSED_LOSSES_CUSTOM_ISA", "native")
    made = custom.elementwise(lambda input, target: (input - target) ** 2 * 0.625, name="damaged")
    builder.folder().mkdir(parents=True)
    broken = builder.folder() / "broken.cpu.so"
    broken.write_bytes(b"")
    (builder.folder() / f"{made.custom.op_name}.cpu.json").write_text('{"library": "broken.cpu.so"}')
    x, t = torch.randn(2, 5, requires_grad=True)
    found = made(x, t)
    assert "FusedLoss" in found.grad_fn.name()
    torch.testing.assert_close(found, ((x - t) ** 2 * 0.625).mean())
    assert not broken.exists()


def test_an_entry_that_is_no_entry_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    builder.folder().mkdir(parents=True)
    for text in ("[]", "{}", "nonsense", '{"library": "gone.so"}'):
        (builder.folder() / "custom_0.cpu.json").write_text(text)
        assert builder.find("custom_0") is None


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
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"build: expected a Python file, got .*notes.txt"):
        custom.build(tmp_path / "notes.txt")


def test_a_file_is_built_as_python_runs_it(tmp_path, capsys):
    """With its neighbours; what it raises is one line of the command."""
    (tmp_path / "its_neighbour.py").write_text("SCALE = 2.0")
    file = tmp_path / "imports.py"
    file.write_text("import its_neighbour")
    before = list(sys.path)
    with pytest.raises(ValueError, match="expected a file that defines custom losses"):
        custom.build(file)
    assert sys.path == before
    file.write_text("1 / 0")
    with pytest.raises(SystemExit):
        main(["build", str(file)])
    assert capsys.readouterr().err.splitlines() == [f"{file}: ZeroDivisionError: division by zero"]


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


def test_a_process_forked_while_a_thread_compiles_does_not_wait_for_it(tmp_path):
    code = LOSS.format(name="squared", power=2)
    code += """
    import os, signal, threading, warnings
    from fused_losses.custom import builder

    warnings.simplefilter("ignore")
    started, forked = threading.Event(), threading.Event()

    def find(name):
        if parent == os.getpid():
            started.set()
            forked.wait(60)
        return None

    def build(losses, say):
        raise builder.NoCompiler("no C++ compiler")

    parent, builder.find, builder.build = os.getpid(), find, build
    x = torch.tensor([0.5])
    thread = threading.Thread(target=squared, args=(x, x))
    thread.start()
    started.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(squared(x, x).item() != 0.5625)
    print(os.waitpid(child, 0)[1])
    forked.set()
    thread.join()
    """
    out, said = run(code, tmp_path).communicate(timeout=120)
    assert out == "0\n", said


def test_a_lock_is_free_when_its_builder_leaves_it_whoever_was_forked_meanwhile(tmp_path):
    code = f"""
    import fcntl, os, signal, time
    from pathlib import Path
    from fused_losses.custom import builder

    path = Path({str(tmp_path / "lock")!r})
    with builder._locked(path):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, signal.SIGKILL)
    """
    process = run(code, tmp_path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
