#!/usr/bin/env bash
# The book as HTML, with all other documents of the repository as further chapters, and a look at whether each of its links leads
# somewhere: book.sh [FOLDER], by default target/book. Needs mdbook.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-target/book}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What documents may show or link to. A link in the tree is no document of its own.
mapfile -d '' files < <(git ls-files -z --cached --others --exclude-standard 2>/dev/null || find . -path ./target -prune -o -type f -printf '%P\0')
for at in "${!files[@]}"; do
  [[ ! -L ${files[at]} ]] || unset "files[at]"
done
printf '%s\0' "${files[@]}" | grep -zE '\.(md|png|html|csv|yaml|toml|sh|py|rs)$|^contrib/' |
  rsync --from0 --files-from=- --ignore-missing-args ./ "$work/src/"
{
  echo '[evo1](README.md)'
  tail -n +2 docs/SUMMARY.md | sed 's/](/](docs\//; s/^\[evo1\]/[The book]/'
  printf '\n# Other documents\n\n'
  printf '%s\n' "${files[@]}" | grep '\.md$' | grep -vE '^(docs/[^/]*|README.md)$' | sort | sed 's/.*/- [&](&)/'
} >"$work/src/SUMMARY.md"
cat >"$work/book.toml" <<'TOML'
[book]
title = "evo1"
language = "en"
src = "src"

# The default ones rename README.md, to which documents link.
[build]
use-default-preprocessors = false

[output.html]
default-theme = "light"
TOML
mdbook build "$work" --dest-dir "$out"

dead=0
while IFS=: read -r page link; do
  target=$(dirname "$page")/${link%%#*}
  [[ -e $target || -z ${link%%#*} ]] || { echo "$page: $link leads nowhere" >&2; dead=1; }
done < <(cd "$out" && grep -oE --include='*.html' --exclude=print.html --exclude=404.html --exclude-dir=integration -r '(href|src)="[^":]+"' "$out" | sed -E 's/:(href|src)="/:/; s/"$//')
exit $dead
