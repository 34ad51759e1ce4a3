"""Who is normal, and who is used for what.

ray job submit --working-dir . -- python jobs/cohort.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["cohort"], __doc__))
