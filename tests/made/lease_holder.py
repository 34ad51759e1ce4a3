"""A script that works on a folder of a store until it is killed.

python -m tests.made.lease_holder ROOT FOLDER
"""

from __future__ import annotations

import sys
import time

from spineage.io.storage.lease import held
from spineage.io.storage.store import Store

if __name__ == "__main__":
    root, folder = sys.argv[1:]
    with held(Store(root), folder, lambda text: print(text, flush=True)):
        print("working", flush=True)
        time.sleep(120)
