"""The web host as a folder for any static server: the page, its modules, a model file and onnxruntime-web.

The page and the modules are part of the package; onnxruntime-web is an npm package of many megabytes, searched for when
exporting.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
from pathlib import Path

from unrolled.engine.errors import ConfigError, MissingDependencyError
from unrolled.engine.storage.checkpoint import Checkpoint
from unrolled.export.artifact.weight_storage import FLOAT32_STORAGE, WeightStorage

MODEL = "model.onnx"
PAGE = ("index.html", "style.css", "icon.svg", "app.mjs", "controls.mjs", "text.mjs", "worker.mjs")
MODULES = ("bpe.mjs", "errors.mjs", "metadata.mjs", "model.mjs", "philox.mjs", "sampling.mjs", "tokenizer.mjs")
# The smallest set that runs: the loader of the WASM build in one module, and the WASM itself.
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
FILES = {MODEL, *PAGE, *(f"js/{name}" for name in MODULES), *(f"ort/{name}" for name in RUNTIME)}
PAGE_MARK = '<meta name="generator" content="unrolled">'  # in index.html: marks a page that this package wrote
PACKAGE = "onnxruntime-web"


def hosts_folder() -> Path:
    """Return the package's folder of hosts, without importing the runtime."""
    spec = importlib.util.find_spec("unrolled.runtime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "hosts"


def find_onnxruntime_web(folder: Path | None = None) -> Path:
    """Return the folder with the files of ``RUNTIME``: in ``folder``, else in node_modules here or beside the page.

    Args:
        folder: the npm package, its dist, the node_modules around it, or the folder around that.

    Raises:
        MissingDependencyError: the files are not found; the message explains how to install them.
    """
    places = (Path("node_modules"), hosts_folder() / "web" / "node_modules") if folder is None else (folder,)
    for place in places:
        for inside in ("", "dist", f"{PACKAGE}/dist", f"node_modules/{PACKAGE}/dist"):
            if all((place / inside / name).is_file() for name in RUNTIME):
                return place / inside
    missing = f"{folder}: has no {' and '.join(RUNTIME)}; " if folder is not None else ""
    raise MissingDependencyError(
        f"{missing}the page needs the npm package {PACKAGE}: run `npm install --prefix . {PACKAGE}@1` "
        f"in this folder, or name the folder of an installed one with --onnxruntime-web"
    )


def write_web(
    checkpoint: Checkpoint,
    path: Path,
    form: str,
    weights: WeightStorage = FLOAT32_STORAGE,
    onnxruntime_web: Path | None = None,
) -> None:
    """Write the folder; once it is complete it replaces an earlier export.

    Raises:
        ConfigError: ``path`` is a file, or a folder with other content.
        MissingDependencyError: onnxruntime-web is not installed.
    """
    from unrolled.export.onnx.writer import write_onnx

    path = path.resolve()
    check_replaceable(path)
    runtime, hosts = find_onnxruntime_web(onnxruntime_web), hosts_folder()
    sources = {name: hosts / "web" / name for name in PAGE}
    sources |= {f"js/{name}": hosts / "js" / name for name in MODULES}
    sources |= {f"ort/{name}": runtime / name for name in RUNTIME}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: the folder cannot be made ({error.strerror})") from error
    draft = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    draft.mkdir()
    try:
        for name, source in sources.items():
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, draft / name)
        write_onnx(checkpoint, draft / MODEL, form, weights)
        _take_place(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Check that ``path`` does not exist, or is an empty folder or an earlier export without other content."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"{path}: is a file, a folder was expected")
    if Path.cwd().is_relative_to(path.resolve()):
        raise ConfigError(f"{path}: the current folder cannot be replaced; name one in it")
    found = {(Path(folder) / name).relative_to(path).as_posix() for folder, _, names in os.walk(path) for name in names}
    page = path / "index.html"
    exported = page.is_file() and PAGE_MARK in page.read_text("utf-8", errors="replace")
    others = sorted(found - FILES) if exported else sorted(found)
    if others:
        raise ConfigError(
            f"{path}: holds {others[0]}{' and more' if len(others) > 1 else ''}, which is no earlier export of a page; "
            "name a new or an empty folder"
        )


def _take_place(draft: Path, path: Path) -> None:
    """Rename ``draft`` to ``path``; an earlier folder of that name is kept until the rename is done."""
    earlier = draft.with_suffix(".old")
    if path.exists():
        path.replace(earlier)
    try:
        draft.replace(path)
    except BaseException:
        if earlier.exists():
            earlier.replace(path)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
