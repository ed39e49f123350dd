"""Compiles the image's packages once and for all, torch and numpy without docstrings. Runs while the image is built.

    python3.11 bytecode.py /packages

An idle interpreter with torch would keep some five megabytes of docstrings in memory that no
program reads: not shared with its neighbours, since they lie between objects that are written
to. The source files keep theirs, so tracebacks and `inspect.getsource` are as ever.
"""

from __future__ import annotations

import ast
import concurrent.futures
import importlib.util
import sys
from importlib import _bootstrap_external as bytecode
from pathlib import Path

UNDOCUMENTED = ("torch", "numpy")
LEFT_OUT = "torch/testing/_internal"


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The same program, its docstrings gone; a body that was nothing else passes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is None:
                continue
            first = node.body.pop(0)
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.copy_location(ast.Pass(), first))
    return tree


def compile_file(path: Path, documented: bool) -> None:
    """Write the file's bytecode beside it, not to be checked against the source again."""
    source = path.read_bytes()
    tree: ast.Module | bytes = source if documented else without_docstrings(ast.parse(source))
    code = compile(tree, str(path), "exec", dont_inherit=True)
    target = Path(importlib.util.cache_from_source(str(path)))
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(bytecode._code_to_hash_pyc(code, importlib.util.source_hash(source), False))  # type: ignore[attr-defined]


def compile_folder(name: str, root: str) -> list[str]:
    """Compile what lies in the folder itself; gives the files that are no Python."""
    failed = []
    for path in sorted(Path(name).glob("*.py")):
        try:
            compile_file(path, path.relative_to(root).parts[0] not in UNDOCUMENTED)
        except (SyntaxError, ValueError) as error:  # templates, and files for other versions of Python
            failed.append(f"{path}: {error}")
    return failed


def main(root: str) -> None:
    """Compile everything below `root`, on all processors."""
    folders = [
        str(path) for path in [Path(root), *Path(root).rglob("*")] if path.is_dir() and LEFT_OUT not in str(path)
    ]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        failed = [
            line for lines in pool.map(compile_folder, folders, [root] * len(folders), chunksize=16) for line in lines
        ]
    print("\n".join(failed) or "bytecode: everything compiled")


if __name__ == "__main__":
    main(sys.argv[1])
