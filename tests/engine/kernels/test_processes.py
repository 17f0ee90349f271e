"""The compiled engine across processes and threads: compiled once, forked, called from several threads at a time."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import models
import numba
import numpy as np
import pytest
from numba import njit
from numba.core.dispatcher import Dispatcher

from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.kernels.jit import compilation
from unrolled.engine.kernels.jit.compilation import _announce, cache_folder, drop_stale_cache, source_digest
from unrolled.engine.kernels.jit.numba_internals import user_cache_folder
from unrolled.engine.training.warmup import warmup
from unrolled.runtime.generation.generate import generate
from unrolled.runtime.models.engines import make_model

SUPPORT = Path(__file__).parents[2] / "support"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which can import the tests' modules."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


COUNT = """
    import json, time
    started = time.perf_counter()
    from unrolled.engine.training.warmup import warmup
    warmup("rnn")
    import gc, numba
    from numba.core.dispatcher import Dispatcher
    ours = [d for d in gc.get_objects() if isinstance(d, Dispatcher) and d.__module__.startswith("unrolled")]
    stats = [d.stats for d in ours]
    count = lambda name: sum(sum(getattr(s, name).values()) for s in stats)
    from unrolled.engine.kernels.threads.thread_pool import _run_parts
    found = {"hits": count("cache_hits"), "misses": count("cache_misses"), "loops": len(_run_parts.signatures)}
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_second_process_starts_without_compiling_and_the_first_says_that_it_does(tmp_path: Path) -> None:
    first = run(COUNT, NUMBA_CACHE_DIR=str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["misses"] > 10
    assert json.loads(first.stdout)["loops"] == 1  # the parallel loop is compiled once for all kernels
    assert first.stderr.count("compiling the Numba kernels") == 1
    assert str(tmp_path) in first.stderr
    second = run(COUNT, NUMBA_CACHE_DIR=str(tmp_path))
    assert second.returncode == 0, second.stderr
    counts = json.loads(second.stdout)
    assert counts["misses"] == 0
    assert counts["hits"] > 10
    assert "compiling" not in second.stderr


def test_an_import_touches_no_file_and_all_kernels_are_kept_in_one_folder(tmp_path: Path) -> None:
    done = run(
        """
        import os
        import unrolled.engine.kernels, unrolled.engine.kernels.decode.flow, unrolled.bench.machine.limits as limits
        from unrolled.engine.kernels.jit.compilation import cache_folder
        from unrolled.engine.kernels.threads import buffer_pool
        print(os.listdir(os.environ["NUMBA_CACHE_DIR"]))
        limits._total(buffer_pool.empty((3,), "f4"))
        print(limits._total.stats.cache_path == str(cache_folder()))
        print(os.listdir(os.environ["NUMBA_CACHE_DIR"]) == [cache_folder().name])
        print(sorted(name.split("-")[0] for name in os.listdir(cache_folder())))
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    names = ["kernels.sha256", *["unrolled.bench.machine.limits._total"] * 2]  # of the function an index and its code
    assert done.stdout.splitlines() == ["[]", "True", "True", str(names)], done.stderr


EDITED = """
    import sys
    from importlib import util
    from pathlib import Path
    from unrolled.engine.kernels.jit.compilation import compiled

    def load(path, name):
        spec = util.spec_from_file_location(name, path)
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    source = Path(sys.argv[1])
    source.write_text("def value(x):\\n    return x + 1\\n")
    early = compiled(load(source, "one.same").value)
    source.write_text("def value(x):\\n    return x + 20\\n")
    print(early(1))
    late = compiled(load(source, "one.same").value)
    print(late(1), sum(late.stats.cache_hits.values()))
    other = source.with_name("other") / source.name
    other.parent.mkdir()
    other.write_text("def value(x):\\n    return x + 300\\n")
    compiled(load(other, "two.same").value)(1)
    again = compiled(load(source, "one.same").value)
    print(again(1), sum(again.stats.cache_hits.values()))
"""


def test_code_of_a_file_edited_since_its_import_or_of_a_namesake_is_not_loaded(tmp_path: Path) -> None:
    code = EDITED.replace("sys.argv[1]", repr(str(tmp_path / "same.py")))
    done = run(
        "import sys; sys.dont_write_bytecode = True\n" + textwrap.dedent(code), NUMBA_CACHE_DIR=str(tmp_path / "cache")
    )
    assert done.stdout.splitlines() == ["2", "21 0", "21 1"], done.stderr


def test_the_next_folder_that_can_be_written_keeps_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder().parent == tmp_path / "own"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(blocked / "below"))
    assert cache_folder() in (compilation.SOURCES / "__pycache__", user_cache_folder() / cache_folder().name)
    monkeypatch.setattr(compilation, "_can_write", lambda folder: False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "another"))
    with pytest.raises(RuntimeError, match="no folder for compiled kernels can be written"):
        cache_folder()


def test_code_for_tiles_is_not_loaded_where_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = []
    for has_amx, granted in ((True, True), (True, False), (False, False)):
        monkeypatch.setattr(compilation, "TARGET", compilation.TARGET._replace(amx_bf16=has_amx))
        monkeypatch.setattr(compilation, "has_tiles", lambda granted=granted: granted)
        versions.append(compilation._version.__wrapped__())
    assert versions[1] != versions[0] == versions[2] == source_digest(compilation.SOURCES)


def compiled_types() -> dict[int, int]:
    """Return for how many types each function of the package is compiled, by its identity."""
    # by type: isinstance would follow weak proxies of objects that no longer exist
    ours = [
        one
        for one in gc.get_objects()
        if issubclass(type(one), Dispatcher) and str(one.__module__).startswith("unrolled.")
    ]
    return {id(one): len(one.signatures) for one in ours}


def test_warmup_leaves_nothing_to_compile() -> None:
    warmup("lstm")
    assert warmup("lstm") < 1.0
    before = compiled_types()
    model: Any = make_model(models.checkpoint("lstm", hidden_size=40), "numba")
    for temperature in (1.0, 0.5):
        list(generate(model, ["a", "ab"], max_new_tokens=4, temperature=temperature, top_k=3))
    assert not [count for key, count in compiled_types().items() if count > before.get(key, 0)]
    assert max(before.values()) > 0
    with pytest.raises(ConfigError, match="cell"):
        warmup("lstn")


def test_kernels_of_changed_sources_are_dropped_and_others_kept(tmp_path: Path) -> None:
    sources, cache = tmp_path / "sources", tmp_path / "cache"
    sources.mkdir()
    (sources / "a.py").write_text("a = 1\n")
    before = source_digest(sources)
    drop_stale_cache(cache, before)
    kernel, other = cache / "a.f-1.nbc", cache / "note.txt"
    kernel.write_bytes(b"1")
    other.write_bytes(b"1")
    threads = [threading.Thread(target=drop_stale_cache, args=(cache, source_digest(sources))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kernel.exists()
    (sources / "a.py").write_text("a = 2\n")
    drop_stale_cache(cache, source_digest(sources))
    assert not kernel.exists()
    assert other.exists()
    assert sorted(path.name for path in cache.iterdir()) == ["kernels.sha256", "note.txt"]
    kernel.write_bytes(b"1")
    drop_stale_cache(cache, "another")
    assert not kernel.exists()
    (sources / "room").mkdir()
    (sources / "room" / "b.py").write_text("b = 1\n")
    assert source_digest(sources) not in (before, "another")


def test_numba_without_a_compiler_is_refused_clearly() -> None:
    done = run(
        """
        from unrolled.engine.network.backends import get_backend
        try:
            get_backend("numba")
        except Exception as error:
            print(type(error).__name__, error)
        """,
        NUMBA_DISABLE_JIT="1",
    )
    assert done.stdout.startswith(MissingDependencyError.__name__)
    assert "NUMBA_DISABLE_JIT" in done.stdout


WORK = """
    import hashlib, os, sys, threading
    import models, numba, numpy as np
    from unrolled.engine.network.network import Network
    config = models.config("lstm", hidden_size=64)
    model = Network(config.spec, models.params(config, np.float32), "numba")

    def digest(seed):
        batch, state = models.batch(config, 20, 6, seed=seed), models.state(config, 6, np.float32)
        whole = hashlib.sha256()
        for _ in range(10):
            result = model.gradients(batch, state)
            whole.update(result.flat.tobytes() + result.state.tobytes())
        return whole.hexdigest()
"""
IN_THREADS = """
    alone = [digest(seed) for seed in range(4)]
    found = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: digest(seed)})) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(numba.threading_layer(), [found[seed] for seed in range(4)] == alone, len(set(alone)))
"""
FORK = """
    def in_child():
        sys.stdout.flush()
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            print("child", digest(0), flush=True)
        except Exception as error:
            print("child", type(error).__name__, error, flush=True)
        os._exit(0)
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_several_threads_at_a_time_get_the_bits_that_each_gets_alone(layer: str) -> None:
    done = run(WORK + IN_THREADS, NUMBA_THREADING_LAYER=layer)
    if "threading layer" in done.stderr.lower() and done.returncode != 0:
        pytest.skip(f"no {layer} threads here")
    assert done.stdout.split() == [layer, "True", "4"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_forked_process_works_or_says_what_to_do(layer: str) -> None:
    done = run(WORK + FORK + "\n    print('parent', digest(0)); print(in_child())\n", NUMBA_THREADING_LAYER=layer)
    if "threading layer" in done.stderr.lower() and done.returncode != 0:
        pytest.skip(f"no {layer} threads here")
    parent, child, code = done.stdout.splitlines()
    assert code == "0", done.stderr
    if layer == "workqueue":
        assert child.split()[1] == parent.split()[1]
    else:
        assert child.startswith("child ForkError")
        assert "spawn" in child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_forked_before_the_first_call_just_works() -> None:
    done = run(WORK + FORK + "\n    print(in_child()); print('parent', digest(0))\n")
    child, code, parent = done.stdout.splitlines()
    assert code == "0", done.stderr
    assert child.split()[1] == parent.split()[1]


def test_texts_written_by_several_threads_are_those_of_one() -> None:
    model: Any = make_model(models.checkpoint("gru", hidden_size=40), "numba")
    settings = {"max_new_tokens": 300, "num_return_sequences": 3}
    alone = [[text.text for text in generate(model, ["a"], seed=seed, **settings)] for seed in range(4)]
    found: dict[int, list[str]] = {}

    def write(seed: int) -> None:
        found[seed] = [text.text for text in generate(model, ["a"], seed=seed, **settings)]

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == alone
    assert len({tuple(texts) for texts in alone}) == 4
    assert np.shape(alone) == (4, 3)


def test_functions_of_no_module_compile_beside_the_kernels() -> None:
    made: dict[str, Any] = {}
    exec("def double(x): return 2 * x", {}, made)
    double = njit(made["double"])
    assert made["double"].__module__ is None
    _announce(made["double"])  # which has no module to tell whose it is
    assert double(21) == 42


def test_the_first_call_of_a_process_may_be_of_a_single_part(tmp_path: Path) -> None:
    """Code from the cache refers to functions of the thread layer, which Numba registers only when it is asked for them."""
    code = """
        import numpy as np
        from unrolled.engine.kernels.threads.array_copies import add
        total = np.ones(3, np.{})
        add(np.arange(3, dtype=total.dtype), total)
        print(total.tolist())
    """
    for dtype in ("float32", "float64", "float64"):  # the second process loads the loop over parts, and not the call
        done = run(textwrap.dedent(code).format(dtype), NUMBA_CACHE_DIR=str(tmp_path))
        assert (done.returncode, done.stdout) == (0, "[1.0, 2.0, 3.0]\n"), done.stderr
