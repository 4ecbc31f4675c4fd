"""The program's files, parsed once for all tests that read them."""

import ast

from servers import ROOT

FILES = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*/*.py")]
    if path.relative_to(ROOT).parts[0] not in ("tests", "bench", "bin", "examples", "build")
)
TREES = {
    path: ast.parse((ROOT / path).read_text()) for path in FILES
}  # now: CPython 3.11 minds other threads at it
