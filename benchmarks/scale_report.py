"""From the JSON of `scale` alone: slopes, roofline, devices, and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, pages, streaming
from benchmarks.report import environment_line, markdown, number, seconds, size, title

Json = dict[str, Any]


def curves(results: Json) -> dict[str, dict[str, list[Json]]]:
    """{sweep: {method: cells by size}}."""
    found: dict[str, dict[str, list[Json]]] = {}
    for cell in results["cells"]:
        found.setdefault(cell["sweep"], {}).setdefault(cell["method"], []).append(cell)
    return found


def time_of(cell: Json) -> float | None:
    return measure.summary(cell["seconds"])["median"] if cell["seconds"] else None


def spread_of(cell: Json) -> float | None:
    return measure.summary(cell["seconds"])["spread"] if cell["seconds"] else None


def slope(cells: list[Json], cost: Any) -> float | None:
    """The exponent of a cost in the size, by least squares over the larger half of sizes."""
    points = [(cell["value"], cost(cell)) for cell in cells if cost(cell)]
    points = points[len(points) // 2 - 1 :] if len(points) > 3 else points
    if len(points) < 2:
        return None
    xs, ys = np.log(np.array(points, float)).T
    return float(np.polyfit(xs, ys, 1)[0])


def bound(cell: Json, rates: Json) -> float | None:
    """The least seconds that the device's measured rates allow; None where XLA counts no bytes."""
    if cell["flops"] is None or cell["accessed"] is None:
        return None
    return max(cell["flops"] / rates["flops"], cell["accessed"] / rates["bytes"])


def slope_table(results: Json) -> str:
    """One line per sweep and method."""
    head = ["sweep", "method", "sizes", "time slope", "FLOPs slope", "memory slope"]
    head += ["compile slope", "time at the last", "spread", "÷ gradient", "of roofline", "ended by"]
    rows = [head]
    limit = results["settings"]["memory_bytes"]
    for name, methods in curves(results).items():
        for method, cells in methods.items():
            ran = [cell for cell in cells if cell["seconds"]]
            beyond = [cell for cell in cells if not cell["seconds"]]
            first, last = cells[0], ran[-1] if ran else None
            least = bound(last, results["rates"]) if last else None
            taken = time_of(last) if last else None
            base = [c for c in methods.get("gradient", []) if last and c["value"] == last["value"]]
            gradient = time_of(base[0]) if base else None
            ended = "–"
            if beyond:
                ended = f"{size(beyond[0]['bytes']['peak'])} at {beyond[0]['value']}"
            elif taken and taken > results["settings"]["seconds"]:
                ended = "time"
            rows.append(
                [
                    name,
                    title(method),
                    f"{first['value']}–{last['value'] if last else '–'} {first['unit']}",
                    number(slope(cells, time_of)),
                    number(slope(cells, lambda c: c["flops"])),
                    number(slope(cells, lambda c: c["bytes"]["temp"])),
                    number(slope(cells, lambda c: c["compile_seconds"])),
                    seconds(taken) if taken else "–",
                    f"± {50 * spread_of(last):.0f} %" if last else "–",
                    number(taken / gradient if taken and gradient else None),
                    f"{100 * least / taken:.0f} %" if least and taken else "–",
                    ended,
                ]
            )
    return f"{markdown(rows)}\n\nMemory budget: {size(limit)} a program."


def device_table(results: Json) -> str:
    rows = [["devices", "examples", "examples / s", "a device", "÷ one device's", "collectives"]]
    alone = None
    for cell in results["devices"]:
        rate = cell["examples"] / measure.summary(cell["seconds"]["wall"])["median"]
        each = rate / cell["devices"]
        alone = alone or each
        rows.append(
            [
                str(cell["devices"]), str(cell["examples"]), f"{rate:.0f}", f"{each:.0f}",
                f"{each / alone:.2f}", str(cell["collectives"]),
            ]
        )  # fmt: skip
    return markdown(rows)


def streaming_table(results: Json) -> str:
    """What storing costs; results of before there was any have none."""
    found = results.get("streaming")
    if found is None:
        return ""
    rows = [["way", "CPU time ÷ bare", "time ÷ bare"]]
    for way in ("streamed", "in chunks"):
        rows.append(
            [way, *(f"{streaming.ratio(found, way, clock):.2f}" for clock in ("cpu", "wall"))]
        )
    return (
        f"{markdown(rows)}\n\n{found['examples']} examples of BPNet, {found['batch']} at a time, "
        "beside a bare loop of the same program, starting left out.  Memory from a fifth of "
        f"{found['long']:,} small examples on: {size(found['growth_bytes'])} more."
    )


def shown(results: Json) -> str:
    return "\n\n".join([slope_table(results), device_table(results), streaming_table(results)])


def page(results: Json, image: str) -> str:
    e, rates = results["environment"], results["rates"]
    where = f"; on a CPU they share its {e['cores']} cores" if e["platform"] == "cpu" else ""
    parts = [
        "# How costs grow",
        environment_line(e),
        "A slope is the exponent of a cost in the size, over the larger half of sizes.  The "
        f"roofline is what the device's measured rates allow: {rates['flops'] / 1e9:.0f} GFLOP/s "
        f"in a matrix product, {rates['bytes'] / 1e9:.0f} GB/s in a copy of the fastest size "
        "(programs with loops, of whose bytes XLA counts one round, have none).",
        slope_table(results),
        f"![Times]({image})",
        f"DeepLIFT's throughput over devices, a sharded batch{where}:",
        device_table(results),
    ]
    if "streaming" in results:
        parts += ["Stored by `jaxplain.stream.run`, and in chunks:", streaming_table(results)]
    return "\n\n".join(parts) + "\n"


def figure(results: Json, path: Path) -> None:
    """A panel per sweep: time against size, dashed what the roofline allows."""
    from matplotlib.figure import Figure

    sweeps = curves(results)
    columns = min(3, len(sweeps))
    rows = -(-len(sweeps) // columns)
    fig = Figure(figsize=(4 * columns, 3 * rows + 0.5), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(sweeps) :]:
        axis.remove()
    for axis, (name, methods) in zip(axes.flat, sweeps.items(), strict=False):
        for method, cells in methods.items():
            ran = [cell for cell in cells if cell["seconds"]]
            sizes = [cell["value"] for cell in ran]
            [line] = axis.plot(sizes, [time_of(cell) for cell in ran], "o-", label=title(method))
            least = [bound(cell, results["rates"]) or np.nan for cell in ran]
            axis.plot(sizes, least, "--", color=line.get_color(), linewidth=1)
        axis.set_title(name)
        axis.set_xlabel(next(iter(methods.values()))[0]["unit"])
        axis.set_ylabel("seconds")
        axis.loglog()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"{environment_line(results['environment'])} Dashed: the roofline.", fontsize=8)
    fig.savefig(path, dpi=150)


write = pages.writer(page, figure)
