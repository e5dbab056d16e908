"""The measured tables of docs/performance.md and the picture of README.md, from the JSON of one run.

python -m tests.bench --native build/hit_instructions --json > result.json
python -m tests.bench.table result.json

Numbers are never typed by hand: the text between the marks is replaced. A run of the cases `fsspec-*` alone replaces
their tables (`--only fsspec-parquet,fsspec-random,fsspec-writes`); so does a run of `make bench-files`.
"""

import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.cases_fsspec import ROUNDS

from . import files_table, picture

ROOT = Path(__file__).resolve().parents[2]
FAR = "fsspec-"
"""The prefix of the cases above a far store; they have separate tables, with calls and bytes."""


def number(value: float) -> str:
    """A number with three figures."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def order(row: dict[str, Any]) -> tuple[str, int, str]:
    """The sort key: the letter and the number of the goal."""
    return row["id"][0], int(row["id"][1:]), row["key"]


def bound(row: dict[str, Any]) -> str:
    """The goal in a readable form."""
    return f"{'≥' if row['goal']['sense'] == 'at least' else '≤'} {row['goal']['bound']:g} {row['unit']}"


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if row["value"] is None:
        cells = [row["key"], row["metric"], row["against"], bound(row), "–", "", f"not measured: {row['skipped']}"]
    else:
        spread = f"±{100 * row['spread']:.0f} %" if row["spread"] else ""
        cells = [row["key"], row["metric"], row["against"], bound(row), number(row["value"]), spread, row["reached"]]
    return f"| {' | '.join(cells)} |"


def table(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    head = ["| goal | metric | against | bound | median | spread | reached |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *(line(row) for row in sorted(rows, key=order))])


def others(rows: list[dict[str, Any]]) -> str:
    """The measurements without a goal."""
    head = ["| metric | against | speed | spread |", "|---|---|---|---|"]
    body = [
        f"| {row['metric']} | {row['against']} | {number(row['value'])}× | ±{100 * row['spread']:.0f} % |"
        for row in rows
        if row["value"] is not None
    ]
    return "\n".join([*head, *body])


def conditions(found: dict[str, Any], rounds: int | None = None) -> str:
    """The machine and the settings; `rounds`: if other than the settings say."""
    where, settings = found["machine"], found["settings"]
    return (
        f"Measured with {where['package']}, {where['python']}, {where['cpus']} CPUs ({where['model']}), kernel "
        f"{where['kernel'].partition('-')[0]}, load {where['load']:.1f} at the start; "
        f"{rounds or settings['rounds']} rounds, working set {settings['size'] >> 20} MiB;\n"
        f"differences below {100 * found['spread']:.1f} % mean nothing."
    )


def count(rows: list[dict[str, Any]]) -> str:
    """The number of goals reached."""
    states = [row["reached"] for row in rows if row["key"]]
    return (
        f"Of {len(states)} goals {states.count('yes')} are reached, {states.count('near')} missed by no more than "
        f"that, {states.count('no')} missed."
    )


def fill(path: Path, mark: str, text: str) -> None:
    """Replace the text between the marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    page = path.read_text(encoding="utf-8")
    made = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)
    path.write_text(made, encoding="utf-8")


def far(rows: list[dict[str, Any]]) -> str:
    """The tables beside fsspec's own caches: one for each job."""
    head = ["| against | speed | spread | calls | MiB moved |", "|---|---|---|---|---|"]
    tables = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        body = []
        for row in rows:
            if row["metric"] == metric and row["value"] is not None:
                calls, moved = row["note"].removeprefix("calls ").split(", MiB ")
                cells = [row["against"], f"{number(row['value'])}×", f"±{100 * row['spread']:.0f} %", calls, moved]
                body.append(f"| {' | '.join(cells)} |")
        tables.append("\n".join([f"**{metric[0].upper()}{metric[1:]}**", "", *head, *body]))
    return "\n\n".join(tables)


def versions() -> str:
    """The versions of the compared packages."""
    return ", ".join(f"{name} {version(name)}" for name in ("fsspec", "pyarrow"))


def main() -> None:
    """Fill both pages."""
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    performance = ROOT / "docs" / "performance.md"
    rows = [row for row in found["rows"] if row["case"].startswith(FAR)]
    if rows:
        gate = [row for row in found["goals"] if row["key"] == "P33"]
        reached = f"{table(gate)}\n\n{gate[0]['note']} (calls and MiB: the cache / the peer).\n\n" if gate else ""
        fill(
            performance,
            "bench-fsspec",
            f"{versions()}. {conditions(found, min(ROUNDS, found['settings']['rounds']))}\n\n{reached}{far(rows)}",
        )
    goals = [row for row in found["goals"] if row["case"] not in files_table.CASES]
    if len(goals) < len(found["goals"]):
        near = [row for row in found["goals"] + found["rows"] if row["case"] in files_table.CASES]
        others_of_it = table([row for row in near if row["key"] and not row["counts"]])
        text = f"{conditions(found)} {count(near)}\n\n{files_table.tables(near)}\n\n{others_of_it}"
        fill(performance, "bench-files", text)
    found["goals"] = goals
    found["rows"] = [row for row in found["rows"] if row["case"] not in files_table.CASES]
    if all(row["case"].startswith(FAR) for row in found["goals"] + found["rows"]):
        return
    fill(
        ROOT / "README.md",
        "bench",
        f"{conditions(found)} {count(found['goals'])}",
    )
    fill(
        performance,
        "bench",
        "*Bound* is the goal, *median* the measured value, *spread* the part that may be chance.\n\n"
        f"{conditions(found)} {count(found['goals'])}\n\n{table(found['goals'])}\n\nWithout a goal:\n\n"
        f"{others([row for row in found['rows'] if row not in rows])}",
    )
    picture.main()


if __name__ == "__main__":
    main()
