"""SAG against conditions and lifestyle.

ray job submit --working-dir . -- python jobs/associate.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["associate"], __doc__))
