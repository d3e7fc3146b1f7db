#!/usr/bin/env python3
"""What scripts/gpu/measure.sh found, as Markdown.

    measure_report.py FOLDER
"""

import json
import sys
from pathlib import Path

STAGES = ["prepare", "vision", "projector", "language", "action", "finish", "total", "step"]
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
        fastest, median = kernel["milliseconds"]["min"], kernel["milliseconds"]["p50"]
        is_arithmetic = kernel["gflop"] / peak["tflops"] > 1e3 * kernel["gbyte"] / peak["gbs"]
        rate = f"{kernel['gflop'] / fastest:.1f} TFLOP/s" if is_arithmetic else f"{1e3 * kernel['gbyte'] / fastest:.0f} GB/s"
        share = f"{100 * kernel['bound'] / fastest:.0f} %"
        host = "" if kernel["is_graph"] else "by the host"
        total = f"{kernel['calls'] * fastest:.3f}"
        rows.append([kernel["name"], f"{1e3 * fastest:.1f}", f"{1e3 * median:.1f}", rate, share, kernel["calls"], total, host])
    text = f"Peak: {peak['tflops']:.1f} TFLOP/s, {peak['gbs']:.0f} GB/s, by the product and the copy below.\n\n"
    sum_ms = sum(kernel["calls"] * kernel["milliseconds"]["min"] for kernel in times["kernels"])
    text += table(["operation", "min µs", "p50 µs", "rate", "of bound", "calls", "all ms", ""], rows)
    return text + f"\nAll calls of a prediction: {sum_ms:.2f} ms.\n"


def main():
    folder = Path(sys.argv[1])
    parts = [line.split("\t") for line in (folder / "parts.tsv").read_text().splitlines()]
    print("# Measured on a GPU\n")
    for name in ("gpu", "devices"):
        text = folder / f"{name}.txt"
        if text.exists():
            print(f"```\n{text.read_text().strip()}\n```\n")

    found = {name: report(folder, name) for name, kind, *_ in parts if kind == "json"}
    first = found.get("evo1-first")
    if first:
        setup = first["setup"]
        commit = first["provenance"]["commit"] or "not told"
        print(f"Commit {commit}, {setup['views']} views, {setup['steps']} steps, batch {setup['batch']}, {setup['preset']}.\n")

    single = [(name, it) for name, it in found.items() if isinstance(it, dict)]
    print("## Predictions and training, p50 in ms\n\nIn the order in which they ran.\n")
    print(predictions(single))
    ours = next((found[name] for name in ("evo1-graph", "evo1-eager") if found.get(name)), None)
    peers = [(name, found[name]) for name in ("torch-eager", "torch-graph", "torch-compile", "torch-autotune") if found.get(name)]
    for name, peer in peers if ours else []:
        of_device = sum(ours["milliseconds"][stage]["p50"] for stage in STAGES[1:5] if stage in ours["milliseconds"])
        them = peer["milliseconds"]["total"]["p50"]
        print(f"- over {name}: {ours['milliseconds']['total']['p50'] / them:.2f}, without prepare and finish {of_device / them:.2f}")

    print("\n## Start\n")
    rows = []
    for name in ("evo1-first", "evo1-second"):
        it = found.get(name) or {}
        if it.get("first_prediction"):
            ready, took = it["first_prediction"]["ready_seconds"], it["first_prediction"]["milliseconds"]
            rows.append([name, f"{ready:.2f}", f"{took:.0f}"])
    print(table(["process", "s from its start to its first prediction", "of it the prediction, ms"], rows))

    cells = found.get("matrix") or []
    if cells:
        print("## Number types, and the share of the device's bound\n")
        rows = []
        for cell in cells:
            if "error" in cell:
                rows.append([cell["place"], cell["error"]])
                continue
            it = cell["report"]
            times, bounds = it["milliseconds"], it["bounds"]["milliseconds"]
            shares = [
                f"{times[stage]['p50']:.2f}" + (f" ({100 * bounds[stage] / times[stage]['p50']:.0f} %)" if stage in bounds else "")
                for stage in STAGES[:7]
            ]
            peak = it["bounds"]["peak"]
            rows.append([cell["place"], *shares, f"{peak['tflops']:.0f} TFLOP/s, {peak['gbs']:.0f} GB/s"])
        print(table(["", *STAGES[:7], "peak"], rows))

    if found.get("kernels"):
        print("## Kernels\n")
        print(kernels(found["kernels"]["kernels"]))

    print("## Equality with PyTorch\n")
    for name, kind, code, _ in parts:
        if name.startswith("golden"):
            said = (folder / f"{name}.{kind}").read_text().strip().splitlines()
            print(f"- {name}: {'equal' if code == '0' else 'NOT equal'}; {said[-1] if said else ''}")

    print("\n## Parts\n")
    rows = []
    for name, kind, code, seconds in parts:
        errors = folder / f"{name}.err"
        lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
        said = (lines[-1] if lines else "").replace("|", "\\|")[:200] if code != "0" else ""
        rows.append([name, "done" if code == "0" else CODES.get(int(code), f"failed ({code})"), seconds, said])
    print(table(["part", "", "s", "error"], rows))


if __name__ == "__main__":
    main()
