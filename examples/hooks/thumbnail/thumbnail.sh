#!/bin/sh
# Makes a small picture beside a JPEG, PNG or WebP that has come: x.data gets x.thumb.jpg.
# It never fails: a picture that cannot be read is kept, without a small one.
set -u

# The tool is told what the file is, so that it does not guess: other formats that it knows
# read files, or run programs.
case $(od -An -tx1 -N12 "$M2Y_DATA" | tr -d ' \n') in
    ffd8ff*) kind=jpeg ;;
    89504e470d0a1a0a*) kind=png ;;
    52494646????????57454250) kind=webp ;;
    *) exit 0 ;;
esac

tool=convert
command -v magick > /dev/null && tool=magick

# A name that begins with a dot is hidden.
new=.thumb-$M2Y_EVENT_ID
if timeout 20 "$tool" -limit memory 256MiB -limit map 256MiB -limit disk 0 \
    "$kind:${M2Y_DATA}[0]" -auto-orient -thumbnail 256x256 -strip "jpeg:$new"; then
    mv "$new" "${M2Y_DATA%.data}.thumb.jpg"
fi
rm -f "$new"
exit 0
