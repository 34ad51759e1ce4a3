"""Code the radiology findings table.

ray job submit --working-dir . -- python jobs/conditions.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["conditions"], __doc__))
