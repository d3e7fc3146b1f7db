#!/usr/bin/env python3
"""What scripts/gpu/measure.sh found, as Markdown.

    measure_report.py FOLDER
"""

import json
import sys
from pathlib import Path

STAGES = ["prepare", "vision", "projector", "language", "action", "device", "finish", "total", "step"]
OF_DEVICE = ["vision", "projector", "language", "action", "device"]
OF_POLICY = [stage for stage in STAGES if stage not in ("device", "step")]
BEST = 4
CODES = {124: "took too long", 125: "no time was left", 127: "not found", 137: "took too long"}


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def report(folder, name):
    """A part's JSON; None where it failed or was not run."""
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None


def predictions(found):
    """Rows of medians: what ran, milliseconds by stage, predictions a second, gigabytes of the device."""
    rows = []
    for name, it in found:
        times = it["milliseconds"]
        total = times.get("total") or times.get("step")
        memory = it.get("device_memory_bytes")
        stages = [f"{times[stage]['p50']:.2f}" if stage in times else "" for stage in STAGES]
        per_second = f"{1e3 * it['setup']['batch'] / total['p50']:.2f}"
        rows.append([name, it["setup"]["dtype"], *stages, per_second, f"{memory / 1e9:.2f}" if memory else ""])
    return table(["", "type", *STAGES, "per s", "GB"], rows)


def kernels(times):
    peak, rows = times["peak"], []
    for kernel in times["kernels"]:
        fastest, median = (kernel["milliseconds"][which] for which in ("min", "p50"))
        is_arithmetic = kernel["gflop"] / peak["tflops"] > 1e3 * kernel["gbyte"] / peak["gbs"]
        of_memory = f"{1e3 * kernel['gbyte'] / fastest:.0f} GB/s"
        rate = f"{kernel['gflop'] / fastest:.1f} TFLOP/s" if is_arithmetic else of_memory
        share = f"{100 * kernel['bound'] / fastest:.0f} %"
        host = "" if kernel["is_graph"] else "by the host"
        total = f"{kernel['calls'] * fastest:.3f}"
        microseconds = [f"{1e3 * time:.1f}" for time in (fastest, median)]
        rows.append([kernel["name"], *microseconds, rate, share, kernel["calls"], total, host])
    text = f"Peak: {peak['tflops']:.1f} TFLOP/s, {peak['gbs']:.0f} GB/s, by the product and the copy below.\n\n"
    sum_ms = sum(kernel["calls"] * kernel["milliseconds"]["min"] for kernel in times["kernels"])
    text += table(["operation", "min µs", "p50 µs", "rate", "of bound", "calls", "all ms", ""], rows)
    return text + f"\nAll calls of a prediction: {sum_ms:.2f} ms.\n"


def candidates(times):
    """The fastest ways to cut each product, beside the one that is chosen."""
    of_products, rows = {}, []
    for kernel in times["kernels"]:
        product, _, way = kernel["name"].rpartition(": ")
        is_candidate = "stages" in way
        of_products.setdefault(product if is_candidate else kernel["name"], []).append((kernel, way if is_candidate else "chosen"))
    for product, ways in of_products.items():
        if len(ways) > 1:
            fastest = sorted(ways, key=lambda way: way[0]["milliseconds"]["min"])
            shown = fastest[:BEST] + [way for way in fastest[BEST:] if way[1] == "chosen"]
            for kernel, way in shown:
                microseconds = 1e3 * kernel["milliseconds"]["min"]
                rows.append([product, way, f"{microseconds:.1f}", f"{kernel['gflop'] / microseconds * 1e3:.0f}"])
    return table(["product", "tiles", "min µs", "TFLOP/s"], rows)


def machine(folder, found):
    for name in ("gpu", "devices"):
        text = folder / f"{name}.txt"
        if text.exists():
            print(f"```\n{text.read_text().strip()}\n```\n")
    first = found["evo1-first"]
    setup, commit = first["setup"], first["provenance"]["commit"] or "not told"
    print(f"Commit {commit}, {setup['views']} views, {setup['steps']} steps, {setup['preset']}.")


def in_turn(found):
    print("In the order in which they ran.\n")
    print(predictions([(name, it) for name, it in found.items() if isinstance(it, dict)]))
    ours = found.get("evo1-graph") or found["evo1-eager"]
    of_device = sum(ours["milliseconds"][stage]["p50"] for stage in OF_DEVICE if stage in ours["milliseconds"])
    for name in ("torch-eager", "torch-graph", "torch-compile", "torch-autotune"):
        if found.get(name):
            them = found[name]["milliseconds"]["total"]["p50"]
            ratio = ours["milliseconds"]["total"]["p50"] / them
            print(f"- evo1 over {name}: {ratio:.2f}, without prepare and finish {of_device / them:.2f}")


def start(found):
    rows = []
    for name in ("evo1-first", "evo1-second"):
        if (found.get(name) or {}).get("first_prediction"):
            first = found[name]["first_prediction"]
            rows.append([name, f"{first['ready_seconds']:.2f}", f"{first['milliseconds']:.0f}"])
    print("Random weights are made in the seconds; they would be read from a file instead.\n")
    print(table(["process", "s to the end of the first prediction", "of it the prediction, ms"], rows))


def number_types(found):
    rows = []
    for cell in found["matrix"]:
        if "error" in cell:
            rows.append([cell["place"], cell["error"], *[""] * 7])
            continue
        times, bounds = cell["report"]["milliseconds"], cell["report"]["bounds"]
        row = [cell["place"]]
        for stage in OF_POLICY:
            time, bound = times[stage]["p50"], bounds["milliseconds"].get(stage)
            row.append(f"{time:.2f}" + (f" ({100 * bound / time:.0f} %)" if bound else ""))
        rows.append([*row, f"{bounds['peak']['tflops']:.0f} TFLOP/s, {bounds['peak']['gbs']:.0f} GB/s"])
    print("p50 in ms, and the share of it that the device's peak asks for.\n")
    print(table(["", *OF_POLICY, "peak"], rows))


def goldens(folder, parts):
    for name, kind, code, _ in parts:
        if name.startswith("golden"):
            lines = [line.split() for line in (folder / f"{name}.{kind}").read_text().splitlines()]
            relative = [(float(line[2]), line[0]) for line in lines if len(line) > 2 and line[2][0].isdigit()]
            worst, tensor = max(relative, default=(0.0, "nothing"))
            is_equal = "equal" if code == "0" else "NOT shown equal"
            print(f"- {name}: {is_equal}; {len(relative)} tensors, the worst {tensor} with {worst:.1e}")


def all_parts(folder, parts):
    rows = []
    for name, _, code, seconds in parts:
        errors = folder / f"{name}.err"
        lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
        said = (lines[-1] if lines else "").replace("|", "\\|")[:200] if code != "0" else ""
        rows.append([name, "done" if code == "0" else CODES.get(int(code), f"failed ({code})"), seconds, said])
    print(table(["part", "", "s", "error"], rows))


def main():
    folder = Path(sys.argv[1])
    parts = [line.split("\t") for line in (folder / "parts.tsv").read_text().splitlines()]
    found = {name: report(folder, name) for name, kind, *_ in parts if kind == "json"}
    sections = {
        "Machine": lambda: machine(folder, found),
        "Predictions and training, p50 in ms": lambda: in_turn(found),
        "Start": lambda: start(found),
        "Number types": lambda: number_types(found),
        "Kernels": lambda: print(kernels(found["kernels"]["kernels"])),
        **({"Kernels on the next burn": lambda: print(kernels(found["next-kernels"]["kernels"]))} if "next-kernels" in found else {}),
        "Candidates of products": lambda: print(candidates(found["candidates"]["kernels"])),
        "Equality with PyTorch": lambda: goldens(folder, parts),
        "Parts": lambda: all_parts(folder, parts),
    }
    print("# Measured on a GPU")
    for title, section in sections.items():
        print(f"\n## {title}\n")
        try:
            section()
        except (KeyError, TypeError, OSError, ValueError) as error:
            print(f"Not measured: {type(error).__name__} {error}.")


if __name__ == "__main__":
    main()
