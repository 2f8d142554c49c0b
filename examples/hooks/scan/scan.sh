#!/bin/sh
# Has a scanner look at the file, and writes what it says into the field `scan` of the .meta:
# "clean", or "found" and the name. Any other end fails, and m2y tries again later.
# ROOT/scripts/scanner is a program that is called and answers as clamscan does: 0 for a
# clean file, 1 with a line "FILE: NAME FOUND". Where there is none, clamscan itself is asked.
set -eu

scanner=$(dirname "$0")/scanner
[ -x "$scanner" ] || scanner=clamscan

code=0
said=$("$scanner" --no-summary "$M2Y_DATA") || code=$?
case $code in
    0) word=clean ;;
    1) name=$(printf '%s\n' "$said" | sed -n 's/.*: \(.*\) FOUND$/\1/p' | head -n 1)
       word="found $(printf '%s' "$name" | tr -cd 'A-Za-z0-9._-')" ;;
    *) echo "the scanner ended with $code: $said" >&2
       exit 1 ;;
esac

# A name that begins with a dot is hidden.
new=.scan-$M2Y_EVENT_ID
sed "s/^  \"scan\": \"[^\"]*\"/  \"scan\": \"$word\"/" "$M2Y_META" > "$new"
mv "$new" "$M2Y_META"
