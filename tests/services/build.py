"""A container that compiles, links, runs and commits all day."""

from __future__ import annotations

from tests.services.recipe import Recipe, Service

# FILES and FLAGS differ between the mixes; names of variables, not values, make the model.
_ENTRYPOINT = r"""#!/bin/bash
set -e
export HOME=/src GIT_AUTHOR_NAME=soak GIT_AUTHOR_EMAIL=soak@localhost
export GIT_COMMITTER_NAME=soak GIT_COMMITTER_EMAIL=soak@localhost
mkdir -p /src
cd /src
[ -d .git ] || git init -q
trap 'exit 0' TERM
round=0
while :; do
	round=$((round + 1))
	for n in $(seq "$FILES"); do
		echo "int part$n(void) { return $RANDOM; }" >part$n.c
	done
	{
		for n in $(seq "$FILES"); do echo "int part$n(void);"; done
		echo "#include <stdio.h>"
		echo "int main(void) { printf(\"%d\\n\", part1() + part$FILES()); return 0; }"
	} >main.c
	make -s -f /etc/soak/Makefile FLAGS="$FLAGS"
	./prog >out.log
	git add -A
	git commit -q -m "round $round"
	[ $((round % 4)) = 0 ] && git gc -q
	sleep 2 &
	wait $!
done
"""

_MAKEFILE = """\
PARTS = $(patsubst %.c,%.o,$(sort $(wildcard part*.c)))
prog: main.o libparts.a
	gcc -o $@ $^
libparts.a: $(PARTS)
	ar rcs $@ $^
%.o: %.c
	gcc $(FLAGS) -c -o $@ $<
"""

BUILD = Service(
    Recipe(
        "build",
        ('CMD ["/usr/local/bin/build-entrypoint.sh"]',),
        files={
            "usr/local/bin/build-entrypoint.sh": _ENTRYPOINT,
            "etc/soak/Makefile": _MAKEFILE,
        },
    ),
    packages=("gcc", "git", "libc6-dev", "make"),
    learn="sleep 15",
    judge="sleep 15",
    learn_options=("--env", "FILES=4", "--env", "FLAGS=-O1"),
    judge_options=("--env", "FILES=7", "--env", "FLAGS=-O2 -g"),
)
