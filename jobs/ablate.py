"""The ablation grid: data size x loss x region x seed.

ray job submit --working-dir . -- python jobs/ablate.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["ablate"], __doc__))
