"""The graph of imports between modules, read off their syntax trees."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    """Of a file, given from the root: `a/b.py` is a.b, and `a/__init__.py` is a."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph(root: Path, packages: Iterable[str]) -> Graph:
    """Module -> modules of these packages that it imports when it runs: also inside functions, but not for type
    checkers alone. `from a import b` imports a.b where that is a module, else a."""
    files = {
        module_name(path.relative_to(root)): path for package in packages for path in (root / package).rglob("*.py")
    }
    found: Graph = {}
    for name, path in sorted(files.items()):
        imported: set[str] = set()
        for node in _at_run_time(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                below = [f"{node.module}.{alias.name}" for alias in node.names]
                imported |= {one if one in files else str(node.module) for one in below}
        found[name] = {one for one in imported if one in files and one != name}
    return found


def _at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, without what stands under `if TYPE_CHECKING:`."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children = node.orelse
    for child in children:
        yield from _at_run_time(child)


def circles(imports: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of modules that all import each other, directly or through others: the strongly connected components of
    more than one module."""
    reached = {module: _reached(imports, module) for module in imports}
    found: list[set[str]] = []
    for module in imports:
        together = {one for one in reached[module] if module in reached[one]}
        if together and together not in found:
            found.append(together)
    return found


def _reached(imports: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = imports[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen
