"""Grad-CAM and region occlusion.

ray job submit --working-dir . -- python jobs/explain.py --study study.yaml
"""

import sys

from spineage.run.entry import run_job

if __name__ == "__main__":
    sys.exit(run_job(["explain"], __doc__))
