#!/bin/sh
# A smaller copy of a picture beside it.
set -e
gzip -kf "$1"
mv "$1.gz" "$1.thumb"
chmod 644 "$1.thumb"
