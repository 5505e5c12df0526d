"""gpu.md from gpu.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TABLES = {"rates": "Rates", "end_to_end": "`slpd embed`, end to end, with its start", "steps": "One step"}


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return the figures and checks of a run of `make gpu` as a page."""
    about = document["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items() if version != "missing")
    missing = ", ".join(name for name, version in about["packages"].items() if version == "missing")
    lines = [
        f"# GPU: {about['card']}",
        "",
        f"From gpu.json, by `make gpu`; {about['cores']} CPU cores, CUDA {about['cuda']}, Python {about['python']},",
        f"{packages}. Not installed: {missing or 'nothing'}.",
        "",
        *_table([_overview(name, part) for name, part in document["parts"].items()]),
    ]
    for name, part in document["parts"].items():
        lines += ["", f"## {name}", "", *[f"- {note}" for note in part.get("notes", [])]]
        figures = part.get("figures", {})
        plain = {key: value for key, value in figures.items() if key not in _TABLES}
        lines += [f"- {key}: {value}" for key, value in plain.items()]
        for key, title in _TABLES.items():
            if figures.get(key):
                lines += ["", title, "", *_table(figures[key])]
        if part.get("checks"):
            lines += ["", *_table([_check(check) for check in part["checks"]])]
        if "error" in part:
            lines += ["", part["error"]]
    return "\n".join(lines) + "\n"


def _overview(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    checks = part.get("checks", [])
    passed = sum(check["ok"] for check in checks)
    return {"part": name, "status": part["status"], "checks": f"{passed} of {len(checks)}", "seconds": part["seconds"]}


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    found, limit = (f"{check[key]:.2g}" if key in check else "" for key in ("found", "limit"))
    return {"check": check["what"], "found": found, "allowed": limit, "passed": "yes" if check["ok"] else "NO"}


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [["" if row.get(name) is None else str(row[name]) for name in names] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells)]
