#!/bin/sh
# The demonstration of `make demo`: deploys to this machine, draws one picture, takes everything away again.
# It needs `sdctl` on the PATH and writes the picture to ./out.
set -eu

SDCTL_HOME=$(mktemp -d "${TMPDIR:-/tmp}/sdctl-demo.XXXXXX")
export SDCTL_HOME
cleanup() {
  status=$?
  trap - EXIT INT TERM
  sdctl destroy --target local --yes --quiet >/dev/null || status=$?
  rm -rf "$SDCTL_HOME"
  exit "$status"
}
trap cleanup EXIT INT TERM

# Shows a command as one would type it, then runs it.
run() {
  printf '\n$ %s\n' "$1"
  eval "$1"
}
run 'sdctl deploy --target local --yes'
run 'sdctl submit t2i "A dog" --wait --download out'
run 'sdctl destroy --target local --yes'
trap - EXIT INT TERM
rm -rf "$SDCTL_HOME"
