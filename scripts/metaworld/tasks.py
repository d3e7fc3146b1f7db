"""Meta-World's fifty tasks by difficulty: the split of Seo et al., "Masked World Models for Visual Control" (2022), which
SmolVLA, Evo-1 and LeRobot report by: easy 28, medium 11, hard 6, very hard 5. Their averages are means of the four groups.
"""

GROUPS = {
    "easy": """
        button-press button-press-topdown button-press-topdown-wall button-press-wall coffee-button dial-turn door-close
        door-lock door-open door-unlock drawer-close drawer-open faucet-close faucet-open handle-press handle-press-side
        handle-pull handle-pull-side lever-pull peg-unplug-side plate-slide plate-slide-back plate-slide-back-side
        plate-slide-side reach reach-wall window-close window-open
    """,
    "medium": """
        basketball bin-picking box-close coffee-pull coffee-push hammer peg-insert-side push-wall soccer sweep sweep-into
    """,
    "hard": "assembly hand-insert pick-out-of-hole pick-place push push-back",
    "very hard": "disassemble pick-place-wall shelf-place stick-pull stick-push",
}
GROUPS = {group: [f"{name}-v3" for name in names.split()] for group, names in GROUPS.items()}
GROUP_OF = {task: group for group, tasks in GROUPS.items() for task in tasks}


def named(text: str) -> list[str]:
    """Tasks by their names or those of groups, separated by commas; `all` is every one."""
    tasks = []
    for name in text.split(","):
        tasks += list(GROUP_OF) if name == "all" else GROUPS.get(name.replace("_", " "), [name])
    unknown = [task for task in tasks if task not in GROUP_OF]
    if unknown:
        raise SystemExit(f"no such task: {', '.join(unknown)}; groups are {', '.join(GROUPS)} and all")
    return list(dict.fromkeys(tasks))
