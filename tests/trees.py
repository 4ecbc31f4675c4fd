"""The program's files, parsed once for all tests that read them, and what CONTRIBUTING.md says of them."""

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


def section(title: str) -> str:
    """What stands below that heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
