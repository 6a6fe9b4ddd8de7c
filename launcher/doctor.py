"""Say what works on this machine, and the line that mends what does not.

python launcher/doctor.py
python launcher/doctor.py --bug-report
"""

from __future__ import annotations

from snake_dist.cli import run_launcher
from snake_dist.verbs.doctor import main

if __name__ == "__main__":
    run_launcher(main)
