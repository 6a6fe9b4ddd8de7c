#!/usr/bin/env bash
# A report of players that need no model: bash examples/compare_heuristics.sh report
set -euo pipefail
snake-dist play --player greedy bfs-safe --grid-size 6 --games "${GAMES:-50}" --report "$1" --gif "$1.gif"
echo "open $1/report.html"
