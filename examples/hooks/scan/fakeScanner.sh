#!/bin/sh
# Stands in for clamscan, to try the example: finds only the EICAR test string.
for file; do :; done
if grep -q 'EICAR-STANDARD-ANTIVIRUS-TEST-FILE' "$file"; then
    echo "$file: Eicar-Test-Signature FOUND"
    exit 1
fi
echo "$file: OK"
