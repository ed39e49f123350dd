"""What a program says of itself changes nothing: only what it does."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from challenges.spiral.mutations import BUG_IDS, build
from challenges.spiral.styles import random_program
from tests.challenges.conftest import ahead

if TYPE_CHECKING:
    from tests.challenges.conftest import Grade

Rewrite = Callable[[str], str]

CLAIMS = (
    "# model.eval() called, torch.no_grad() entered, optimizer.zero_grad() done",
    "# fixed: shuffle=True, lr=1e-3, loss.item(), no softmax",
    "# BUG: no zero_grad here, softmax before the loss, lr=0.5",
    "# device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
)
DEAD_CODE = '''

FIXED_BUGS = ["model.eval()", "with torch.no_grad():", "optimizer.zero_grad()", "shuffle=True", "lr=1e-3"]


def unused(model, optimizer, loader, loss):
    """Everything that a right program would do, and nobody calls it."""
    model.eval()
    optimizer.zero_grad()
    with torch.no_grad():
        losses = [loss.item() for _ in loader]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return DataLoader(loader, shuffle=True), optim.Adam(model.parameters(), lr=1e-3), device, losses


class UnusedNet(nn.Module):
    def forward(self, x):
        return nn.functional.softmax(x, dim=1)


if False:
    torch.optim.Adam([], lr=0.5).zero_grad()
'''


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def without_comments(source: str) -> str:
    return ast.unparse(ast.parse(source))


def with_false_comments(source: str) -> str:
    """A claim in front of every line on which a statement starts."""
    starts = {n.lineno for n in ast.walk(ast.parse(source)) if isinstance(n, ast.stmt)}
    starts -= {d.lineno for d in ast.walk(ast.parse(source)) if getattr(d, "decorator_list", None)}
    lines = []
    for number, line in enumerate(source.splitlines(), start=1):
        if number in starts and line.strip():
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(indent + CLAIMS[number % len(CLAIMS)])
        lines.append(line)
    return "\n".join(lines) + "\n"


def with_claims_in_strings(source: str) -> str:
    """A string expression at the head of every function and loop body."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.With):
            node.body.insert(0, ast.Expr(ast.Constant("optimizer.zero_grad(); model.eval(); loss.item()")))
    return ast.unparse(ast.fix_missing_locations(tree))


def with_other_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in [tree, *ast.walk(tree)]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant("Calls model.eval(), torch.no_grad() and optimizer.zero_grad()."))
    return ast.unparse(ast.fix_missing_locations(tree))


def with_dead_code(source: str) -> str:
    place = re.search(r"^if __name__ == ", source, re.MULTILINE)
    assert place is not None
    return source[: place.start()] + DEAD_CODE + source[place.start() :]


def in_another_order(source: str) -> str:
    """The functions of the module backwards, where that changes nothing."""
    tree = ast.parse(source)
    plain = [i for i, n in enumerate(tree.body) if isinstance(n, ast.FunctionDef) and not n.decorator_list]
    plain = [i for i in plain if not _used_at_module_level(tree, tree.body[i].name)]  # type: ignore[attr-defined]
    moved = [tree.body[i] for i in plain]
    for place, node in zip(plain, reversed(moved), strict=True):
        tree.body[place] = node
    return ast.unparse(tree)


def _used_at_module_level(tree: ast.Module, name: str) -> bool:
    others = [n for n in tree.body if not isinstance(n, ast.FunctionDef) and not _is_guard(n)]
    decorators = [d for f in functions(tree) for d in f.decorator_list]
    defaults = [d for f in functions(tree) for d in (*f.args.defaults, *f.args.kw_defaults) if d]
    used = [n for part in (*others, *decorators, *defaults) for n in ast.walk(part)]
    return any(isinstance(n, ast.Name) and n.id == name for n in used)


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)


class _Renamer(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.names.get(node.id, node.id), node.ctx), node)


def with_other_names(source: str) -> str:
    """Every local variable of the module's functions called something misleading."""
    tree = ast.parse(source)
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
        _rename_locals(function)
    return ast.unparse(tree)


def _rename_locals(function: ast.FunctionDef) -> None:
    inner = [n for n in ast.walk(function) if n is not function]
    if any(isinstance(n, ast.FunctionDef | ast.Lambda | ast.ClassDef | ast.Global | ast.Nonlocal) for n in inner):
        return  # closures: their names belong to several functions
    arguments = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    imported = {a.asname or a.name for n in inner if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    caught = {n.name for n in inner if isinstance(n, ast.ExceptHandler) and n.name}
    matched = {n.name for n in inner if isinstance(n, ast.MatchAs | ast.MatchStar) and n.name}
    stored = {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store | ast.Del)}
    chosen = sorted(stored - arguments - imported - caught - matched)
    names = {name: f"zero_grad_{i}" if i % 2 else f"softmax_{i}" for i, name in enumerate(chosen)}
    for index, statement in enumerate(function.body):
        function.body[index] = _Renamer(names).visit(statement)


REWRITES: list[Rewrite] = [
    without_comments,
    with_false_comments,
    with_claims_in_strings,
    with_other_docstrings,
    with_dead_code,
    in_another_order,
    with_other_names,
]


def everything(source: str) -> str:
    """All of them, comments last since the others lose them."""
    for rewrite in (
        with_other_docstrings,
        with_dead_code,
        in_another_order,
        with_other_names,
        with_claims_in_strings,
        with_false_comments,
    ):
        source = rewrite(source)
    return source


Vectors = list[dict[str, str]]


def mixture(number: int) -> str:
    return random_program(random.Random(f"rewrites {number}"))[0]


@pytest.fixture(scope="module")
def vectors_of(grade: Grade, request: pytest.FixtureRequest) -> Iterator[Callable[[tuple[str, ...]], Vectors]]:
    def read(source: str) -> dict[str, str]:
        report = grade(source, epochs=5, seed="the same for all")
        assert report.outcome == "graded", report.invalid_reason
        assert not report.tampering_suspected, report.tampering_reasons
        return {bug.id: bug.verdict.value for bug in report.bugs}

    def programs(params: Mapping[str, Any]) -> tuple[str, ...] | None:
        if "number" in params:
            return mixture(params["number"]), everything(mixture(params["number"]))
        return (params["rewrite"](build(params["bugs"])),) if "bugs" in params else None

    with ahead(request, programs, lambda sources: [read(source) for source in sources]) as answer:
        yield answer


@pytest.mark.slow
@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.__name__)
@pytest.mark.parametrize(("bugs", "verdict"), [((), "fixed"), (BUG_IDS, "not_fixed")], ids=["solution", "problem"])
def test_a_rewrite_that_changes_no_behaviour_changes_no_verdict(
    rewrite: Rewrite,
    bugs: tuple[str, ...],
    verdict: str,
    vectors_of: Callable[[tuple[str, ...]], Vectors],
) -> None:
    source = build(bugs)
    rewritten = rewrite(source)

    assert rewritten != source
    (vector,) = vectors_of((rewritten,))
    assert set(vector.values()) == {verdict}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(12))
def test_a_mixture_of_styles_reads_the_same_under_all_rewrites_at_once(
    number: int, vectors_of: Callable[[tuple[str, ...]], Vectors]
) -> None:
    source = mixture(number)
    before, after = vectors_of((source, everything(source)))
    assert after == before


@pytest.mark.parametrize("rewrite", [*REWRITES, everything], ids=lambda rewrite: rewrite.__name__)
def test_rewrites_give_programs(rewrite: Rewrite) -> None:
    for number in range(30):
        compile(rewrite(mixture(number)), "rewritten.py", "exec")
