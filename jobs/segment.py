"""Segment every scan that has no mask yet.

ray job submit --working-dir . -- python jobs/segment.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["segment"], __doc__))
