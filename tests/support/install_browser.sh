#!/usr/bin/env bash
# A headless Chromium for the tests of the report page: one that is there, playwright's own, or the distribution's.
# Without any of them the browser tests are skipped with a reason (in CI they fail).
set -uo pipefail
for name in chromium-headless-shell chromium google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if playwright install --only-shell chromium >/dev/null 2>&1; then
    playwright install-deps chromium >/dev/null 2>&1
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell && exit 0
fi
echo "no headless Chromium could be installed: the browser tests of the report page will be skipped" >&2
