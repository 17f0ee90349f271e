"""Read the structure of the package from its sources: modules, their imports, and violations of the structural rules.

python tests/support/structure.py FOLDER    # FOLDER holds unrolled/, as an unpacked wheel does; exits with 1 at a circle
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("engine", "export", "runtime", "tuning", "report", "bench", "cli")
MOST_PARAMETERS = 8
FRAGMENT = re.compile(r"(Of|What|Whether|Who|As|Where|Behind|Beside|In|With|From|So|How)\b")

Modules = Mapping[str, Path]
Graph = Mapping[str, set[str]]


def installed() -> dict[str, Path]:
    """Return the folder of each subpackage of the installed ``unrolled``."""
    found = {}
    for name in PACKAGES:
        spec = find_spec(f"unrolled.{name}")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        found[name] = Path(next(iter(spec.submodule_search_locations)))
    return found


def modules_of(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Return the source file of every module, by its dotted name without ``unrolled.``."""
    modules = {}
    for package, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            if "hosts" in path.relative_to(folder).parts:  # programs in other languages, and a generator of tables
                continue
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


def room_of(module: str, modules: Modules) -> str:
    """Return the package that a module stands in."""
    return module if modules[module].name == "__init__.py" else module.rpartition(".")[0]


def imports_of(modules: Modules) -> dict[str, set[str]]:
    """Return the modules that each module imports, at its top or inside a function."""
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unrolled"):
                source = (node.module or "").removeprefix("unrolled").removeprefix(".")
                for alias in node.names:
                    whole = f"{source}.{alias.name}".removeprefix(".")
                    found.add(whole if whole in modules else source)
            elif isinstance(node, ast.Import):
                found |= {alias.name.removeprefix("unrolled.") for alias in node.names}
        graph[name] = {module for module in found if module in modules and module != name}
    return graph


def arrows_between_rooms(modules: Modules, imports: Graph) -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, targets in imports.items():
        room = room_of(module, modules)
        arrows[room] |= {room_of(target, modules) for target in targets} - {room}
    return dict(arrows)


def circles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of two or more nodes (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def _definitions(modules: Modules) -> Iterator[tuple[str, ast.AST]]:
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield name, node


def _is_compiled(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(
        re.search(r"compiled|intrinsic|njit|\bjit", ast.unparse(decorator)) for decorator in function.decorator_list
    )


def long_parameter_lists(modules: Modules, excepted: Iterable[str] = ()) -> list[str]:
    """Return functions of more than ``MOST_PARAMETERS`` parameters, but for compiled ones and modules under ``excepted``."""
    found = []
    for module, node in _definitions(modules):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or module.startswith(tuple(excepted)):
            continue
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > MOST_PARAMETERS and not _is_compiled(node):
            found.append(f"{module}.{node.name} ({count})")
    return found


def double_names(modules: Modules) -> dict[str, list[str]]:
    """Return names of classes and type aliases that more than one module defines, with these modules."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in modules.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
                places[ast.unparse(node.target)].append(module)
    return {name: found for name, found in places.items() if len(found) > 1}


def fragments(modules: Modules, excepted: Iterable[str] = ()) -> list[str]:
    """Return what has a docstring that begins with a fragment instead of a sentence, outside of modules under ``excepted``."""
    found = []
    for module, node in _definitions(modules):
        if module.startswith(tuple(excepted)):
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and FRAGMENT.match(text):
                found.append(f"{module}.{getattr(node, 'name', '')}: {text.splitlines()[0]}")
    return found


def main(folder: str) -> None:
    modules = modules_of({name: Path(folder, "unrolled", name) for name in PACKAGES})
    imports = imports_of(modules)
    found = circles(imports) + circles(arrows_between_rooms(modules, imports))
    if found:
        sys.exit("circles of imports: " + "; ".join(" ".join(circle) for circle in found))
    print(f"{len(modules)} modules, no circle of imports between them or their rooms")


if __name__ == "__main__":
    main(*sys.argv[1:])
