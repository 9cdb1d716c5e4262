#!/bin/sh
# render.sh TEXTS OUT: makes a page of every text. Lines with "# " are headings, "See also NAME.txt" is a link.
set -eu
mkdir -p "$2"
for text in "$1"/*.txt; do
    name=$(basename "$text" .txt)
    {
        printf '<!doctype html>\n<meta charset="utf-8">\n<title>%s</title>\n' "$name"
        sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' \
            -e 's|^# \(.*\)|<h1>\1</h1>|' \
            -e 's|^See also \(.*\)\.txt$|<a href="\1.html">\1</a>|' \
            -e 's|^$|<p>|' "$text"
    } > "$2/$name.html"
    echo "rendered $name"
done
