#!/usr/bin/env python3
"""Write the training text of the demo checkpoint: the King James Bible.

The text comes from two Debian 12 packages (apt-get install bible-kjv
bible-kjv-text); the `bible` program unpacks it. The output is plain ASCII:
one block per chapter, a heading line ("Genesis 1"), then one line per verse
without its number, and an empty line after each chapter.

    python3 prepare_text.py kjv.txt
"""
import re
import subprocess
import sys

WHOLE_BOOK = "gen1:1-rev22:21"
UNBROKEN_LINES = "-l1000000"
HEADING = re.compile(r"^((?:[123] )?[A-Z][A-Za-z ]+ \d+)$")
VERSE = re.compile(r"^ *\d+ (\S.*)$")


def main():
    chapters = parse_chapters(print_bible())
    verse_count = sum(len(verses) for _, verses in chapters)
    if (len(chapters), verse_count) != (1189, 31102):
        sys.exit(f"unexpected text: {len(chapters)} chapters, {verse_count} verses")
    with open(sys.argv[1], "w", encoding="ascii", newline="\n") as out:
        for heading, verses in chapters:
            out.write("\n".join([heading, *verses]) + "\n\n")
    print(f"{len(chapters)} chapters, {verse_count} verses -> {sys.argv[1]}")


def print_bible():
    done = subprocess.run(["bible", UNBROKEN_LINES, WHOLE_BOOK],
                          check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def parse_chapters(lines):
    chapters = []
    for line in lines:
        if match := HEADING.match(line):
            chapters.append((match[1], []))
        elif match := VERSE.match(line):
            chapters[-1][1].append(match[1].strip())
        elif line.strip():
            sys.exit(f"neither a heading nor a verse: {line!r}")
    return chapters


if __name__ == "__main__":
    main()
