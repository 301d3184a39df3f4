/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate's end at the container runtime: one program, two names.
 *
 *   rote-hook      an OCI createRuntime hook. Hands the runtime's state (on standard input) to
 *                  the daemon's socket and waits for "allow" or "deny: MESSAGE". Exits with 1 to
 *                  refuse. --gate=NAME says which gate it is, --word leaves the message in the
 *                  bundle for rote-runtime.
 *   rote-runtime   an OCI runtime for Docker. Puts the hook into config.json when a container is
 *                  made, and lets the real runtime do everything.
 *
 * When nobody answers, what the daemon wrote beforehand counts: RUN_DIR/gate/ID, else
 * RUN_DIR/gate/default, "allow SECONDS RULE" or "deny SECONDS RULE"; where there is neither, the
 * "fail" of gate.conf, which lies beside the program. gate_script.py does the same in Python where
 * there is no compiler.
 *
 * Source: opencontainers/runtime-spec, config.md (hooks) and runtime.md (state).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STATE_MAX (1 << 20)
#define SPEC_MAX (4 << 20)
#define ANSWER_MAX 8192
#define DEPTH_MAX 200
#define HOOK_SECONDS "300" /* the runtime's own limit: ours is in the files */
#define ANSWER_FILE "rote-answer" /* in the bundle: from the hook to rote-runtime */
#define MARGIN 1.0 /* the daemon answers by itself when its time is over */

static char own_dir[PATH_MAX];
static char run_dir[PATH_MAX] = "/run/rote";
static char runtime[PATH_MAX] = "runc";
static bool fail_allow = true;
static double fail_seconds = 10.0;

#include "gate_text.h"

static void read_settings(void)
{
	struct text text = { 0 };
	char path[PATH_MAX + 16], *line, *rest;
	ssize_t size = readlink("/proc/self/exe", own_dir, sizeof(own_dir) - 1);

	own_dir[size > 0 ? size : 0] = 0;
	if (strrchr(own_dir, '/'))
		*strrchr(own_dir, '/') = 0;
	snprintf(path, sizeof(path), "%s/gate.conf", own_dir);
	if (!read_file(path, &text, 65536)) {
		fprintf(stderr,
			"rote: %s: %s; /run/rote and runc are taken, and starts go on when "
			"nobody answers; make it with: rote gate install\n",
			path, strerror(errno));
		return;
	}
	for (line = strtok_r(text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (!strncmp(line, "run_dir=", 8))
			snprintf(run_dir, sizeof(run_dir), "%s", line + 8);
		else if (!strncmp(line, "runtime=", 8))
			snprintf(runtime, sizeof(runtime), "%s", line + 8);
		else if (!strncmp(line, "fail=", 5))
			fail_allow = strcmp(line + 5, "closed") != 0;
	}
	free(text.data);
}

#include "gate_hook.h"
#include "gate_runtime.h"

int main(int argc, char **argv)
{
	const char *name = argc ? strrchr(argv[0], '/') : "/", *gate = "hook";
	bool leave_word = false;
	int at;

	name = name ? name + 1 : argv[0];
	if (!strcmp(name, ".rote-gate"))
		return 0; /* it is tried whether it runs at all, before it is put into its place */
	read_settings();
	if (!strcmp(name, "rote-runtime"))
		return runtime_main(argv);
	for (at = 1; at < argc; at++) {
		leave_word = leave_word || !strcmp(argv[at], "--word");
		if (!strncmp(argv[at], "--gate=", 7))
			gate = argv[at] + 7;
	}
	return hook_main(gate, leave_word);
}
