"""Write the HTML report.

ray job submit --working-dir . -- python jobs/report.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["report"], __doc__))
