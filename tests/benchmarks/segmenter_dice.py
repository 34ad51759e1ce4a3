"""How well the demo segmenter draws and counts phantom people that it was not trained on. One JSON line.

python tests/benchmarks/segmenter_dice.py [num_people] [seed]
"""

from __future__ import annotations

import json
import sys

from spineage.verbs.train_demo_segmenter import GOALS, LEVELS_GOAL, UNSEEN, evaluate, met

SEED = 2511 + 2 * UNSEEN  # neither trained on nor in the manifest's own measurement


def main(num_people: int = 40, seed: int = SEED) -> None:
    measured = evaluate("demo", num_people, seed, say=lambda text: print(text, file=sys.stderr))
    goals = {"dice": GOALS, "levels_right": LEVELS_GOAL}
    line = {"name": "segmenter_dice", **measured, "goals": goals, "met": met(measured)}
    print(json.dumps(line))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
