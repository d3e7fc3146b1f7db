"""Follows a training run and sends its metrics to Weights & Biases.

    python3 scripts/to_wandb.py runs/libero --project evo1

Reads `metrics.jsonl` of the run's folder, line by line as they come, and `config.yaml`. It may be started and stopped at any
time: what wandb has already is not sent again. Needs `pip install wandb pyyaml`; without an account, `WANDB_MODE=offline`.
"""

import argparse
import json
import pathlib
import time


def flat(line, prefix=""):
    """Numbers of a line, those of groups by dotted names."""
    numbers = {}
    for name, value in line.items():
        if isinstance(value, dict):
            numbers.update(flat(value, f"{prefix}{name}."))
        elif isinstance(value, (int, float)):
            numbers[f"{prefix}{name}"] = value
    return numbers


def lines(path, follow):
    """Complete lines of a file, those that are added included; broken ones are left out."""
    rest = ""
    with path.open() as file:
        while True:
            text = file.read()
            if not text and not follow():
                return
            *complete, rest = (rest + text).split("\n")
            for line in complete:
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    pass
            if not text:
                time.sleep(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="the run's folder")
    parser.add_argument("--project", default="evo1")
    parser.add_argument("--once", action="store_true", help="send what is there and end")
    arguments = parser.parse_args()

    import wandb
    import yaml

    config = yaml.safe_load((arguments.run / "config.yaml").read_text())
    name = arguments.run.resolve().name
    run = wandb.init(project=arguments.project, name=name, id=name, resume="allow", config=config)
    last = run.step
    for line in lines(arguments.run / "metrics.jsonl", lambda: not arguments.once):
        # A run that went on from a checkpoint writes steps again that wandb has.
        if line["step"] > last:
            run.log(flat(line), step=line["step"])
            last = line["step"]
            if last >= config["steps"]:
                break
    run.finish()


if __name__ == "__main__":
    main()
