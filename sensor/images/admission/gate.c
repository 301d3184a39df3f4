/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate's end at the container runtime: one program, two names.
 *
 *   rote-hook      an OCI createRuntime hook. Hands the runtime's state (on standard input) to the
 *                  daemon's socket and waits for "allow" or "deny: MESSAGE". Exits with 1 to refuse.
 *   rote-runtime   an OCI runtime for Docker. Puts the hook into config.json when a container is
 *                  made, and lets the real runtime do everything.
 *
 * When nobody answers, what the daemon wrote beforehand counts: RUN_DIR/gate/ID or RUN_DIR/gate/default,
 * "allow SECONDS RULE" or "deny SECONDS RULE"; where there is neither, the "fail" of gate.conf, which
 * lies beside the program. gate_script.py does the same in Python where there is no compiler.
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

/* ---- texts ---- */

struct text {
	char *data;
	size_t size, room;
};

static void put(struct text *text, const char *data, size_t size)
{
	if (text->size + size + 1 > text->room) {
		text->room = (text->size + size + 1) * 2;
		text->data = realloc(text->data, text->room);
		if (!text->data)
			abort();
	}
	memcpy(text->data + text->size, data, size);
	text->size += size;
	text->data[text->size] = 0;
}

static void puts_to(struct text *text, const char *data)
{
	put(text, data, strlen(data));
}

static void put_escaped(struct text *text, const char *data)
{
	for (; *data; data++) {
		unsigned char c = (unsigned char)*data;
		char escaped[8];

		if (c == '"' || c == '\\')
			snprintf(escaped, sizeof(escaped), "\\%c", c);
		else if (c < 0x20)
			snprintf(escaped, sizeof(escaped), "\\u%04x", c);
		else
			snprintf(escaped, sizeof(escaped), "%c", c);
		puts_to(text, escaped);
	}
}

/* The whole of a descriptor; false: unreadable, or more than there may be. */
static bool read_all(int fd, struct text *text, size_t max)
{
	char part[16384];
	ssize_t count;

	for (;;) {
		count = read(fd, part, sizeof(part));
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return false;
		if (!count)
			return text->data != NULL;
		if (text->size + (size_t)count > max) {
			errno = EFBIG;
			return false;
		}
		put(text, part, (size_t)count);
	}
}

static bool read_file(const char *path, struct text *text, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool good;

	if (fd < 0)
		return false;
	good = read_all(fd, text, max);
	close(fd);
	return good;
}

/* ---- JSON: only as much as it takes to find a place in it ---- */

struct member {
	const char *key, *key_end, *value, *end;
};

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* Past a string that begins here; NULL: it does not end. */
static const char *skip_string(const char *at)
{
	if (*at != '"')
		return NULL;
	for (at++; *at && *at != '"'; at++)
		if (*at == '\\' && !*++at)
			return NULL;
	return *at ? at + 1 : NULL;
}

static const char *skip_value(const char *at, int depth)
{
	char close = *at == '{' ? '}' : ']';
	bool object = *at == '{';

	if (*at == '"')
		return skip_string(at);
	if (*at != '{' && *at != '[') {
		size_t size = strcspn(at, ",]} \t\r\n");

		return size ? at + size : NULL;
	}
	if (depth > DEPTH_MAX)
		return NULL;
	at = skip_space(at + 1);
	if (*at == close)
		return at + 1;
	for (;;) {
		if (object) {
			at = skip_string(skip_space(at));
			if (!at)
				return NULL;
			at = skip_space(at);
			if (*at++ != ':')
				return NULL;
		}
		at = skip_value(skip_space(at), depth + 1);
		if (!at)
			return NULL;
		at = skip_space(at);
		if (*at == close)
			return at + 1;
		if (*at++ != ',')
			return NULL;
	}
}

/* The member of an object; false: there is none. The object was skipped whole before: it is well. */
static bool find_member(const char *object, const char *name, struct member *found)
{
	const char *at = skip_space(object + 1);

	while (*at == '"') {
		found->key = at + 1;
		at = skip_string(at);
		found->key_end = at - 1;
		at = skip_space(skip_space(at) + 1);
		found->value = at;
		at = found->end = skip_value(at, 0);
		if ((size_t)(found->key_end - found->key) == strlen(name) &&
		    !memcmp(found->key, name, strlen(name)))
			return true;
		at = skip_space(at);
		if (*at == ',')
			at = skip_space(at + 1);
	}
	return false;
}

/* A string without its escapes; false: it is none, or does not fit. */
static bool unescape(const char *at, char *out, size_t room)
{
	if (*at++ != '"')
		return false;
	for (; *at != '"'; at++) {
		char c = *at;

		if (c == '\\') {
			unsigned int code;

			c = *++at;
			if (c == 'u') {
				if (sscanf(at + 1, "%4x", &code) != 1 || !code || code > 0x7f)
					return false;
				c = (char)code;
				at += 4;
			} else if (!strchr("\"\\/", c)) {
				return false;
			}
		}
		if (--room < 1)
			return false;
		*out++ = c;
	}
	*out = 0;
	return true;
}

static bool get_string(const char *object, const char *name, char *out, size_t room)
{
	struct member found;

	*out = 0;
	return find_member(object, name, &found) && unescape(found.value, out, room);
}

/* The one object that a document consists of; NULL: it is something else. */
static const char *document(const struct text *text)
{
	const char *start, *end;

	if (!text->data || strlen(text->data) != text->size)
		return NULL;
	start = skip_space(text->data);
	if (*start != '{')
		return NULL;
	end = skip_value(start, 0);
	return end && !*skip_space(end) ? start : NULL;
}

/* ---- what was chosen beforehand ---- */

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
		fprintf(stderr, "rote: %s: %s; /run/rote and runc are taken, and starts go on when "
			"nobody answers; make it with: rote gate install\n", path, strerror(errno));
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

struct failure {
	bool allow;
	double seconds;
	char rule[256]; /* or why, when no rule says so */
};

static bool read_failure(const char *name, struct failure *failure)
{
	struct text text = { 0 };
	char path[PATH_MAX + 512], word[16];
	int used = 0;
	bool good;

	snprintf(path, sizeof(path), "%s/gate/%s", run_dir, name);
	if (!read_file(path, &text, 4096))
		return false;
	good = sscanf(text.data, "%15s %lf %n", word, &failure->seconds, &used) == 2 &&
	       (!strcmp(word, "allow") || !strcmp(word, "deny")) && failure->seconds > 0;
	if (good) {
		failure->allow = !strcmp(word, "allow");
		snprintf(failure->rule, sizeof(failure->rule), "%.*s",
			 (int)strcspn(text.data + used, "\n"), text.data + used);
		if (failure->seconds > 280)
			failure->seconds = 280;
	}
	free(text.data);
	return good;
}

static struct failure failure_of(const char *id)
{
	struct failure failure = { fail_allow, fail_seconds, "" };

	/* The id becomes a name in our directory: nothing else of the file system. */
	if (*id && *id != '.' && strlen(id) < 256 && !strchr(id, '/') && read_failure(id, &failure))
		return failure;
	if (read_failure("default", &failure))
		return failure;
	failure = (struct failure){ fail_allow, fail_seconds, "rote gate install --fail closed" };
	return failure;
}

/* ---- the hook ---- */

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Wait until something can be read or written; false, with errno: it could not in time. */
static bool ready(int fd, short events, double until)
{
	for (;;) {
		struct pollfd poller = { fd, events, 0 };
		double left = until - now();
		int found;

		if (left <= 0) {
			errno = ETIMEDOUT;
			return false;
		}
		found = poll(&poller, 1, (int)(left * 1000) + 1);
		if (found > 0)
			return true;
		if (found < 0 && errno != EINTR)
			return false;
	}
}

static int connect_until(double until)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timespec pause = { 0, 10000000 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/gate.sock", run_dir) >=
	    (int)sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	while (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		error = errno;
		/* EAGAIN: more wait already than the daemon has room for. */
		if ((error != EAGAIN && error != EINTR) || now() > until) {
			close(fd);
			errno = error == EAGAIN ? ETIMEDOUT : error;
			return -1;
		}
		nanosleep(&pause, NULL);
	}
	return fd;
}

/* Ask; false, with errno: nobody answered. */
static bool ask(const struct text *state, const char *gate, double seconds, char *answer)
{
	double until = now() + seconds + MARGIN;
	struct text question = { 0 };
	char head[64];
	size_t sent = 0, got = 0;
	ssize_t count;
	int fd = connect_until(until);

	if (fd < 0)
		return false;
	snprintf(head, sizeof(head), "rote-gate 1 %zu %.16s\n", state->size, gate);
	puts_to(&question, head);
	put(&question, state->data ? state->data : "", state->size);
	while (sent < question.size) {
		count = send(fd, question.data + sent, question.size - sent, MSG_NOSIGNAL);
		if (count > 0)
			sent += (size_t)count;
		else if ((errno != EAGAIN && errno != EINTR) || !ready(fd, POLLOUT, until))
			goto failed;
	}
	while (got < ANSWER_MAX - 1) {
		if (!ready(fd, POLLIN, until))
			goto failed;
		count = recv(fd, answer + got, ANSWER_MAX - 1 - got, 0);
		if (count < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (count <= 0) {
			errno = count ? errno : ECONNRESET;
			goto failed;
		}
		got += (size_t)count;
		answer[got] = 0;
		if (strchr(answer, '\n')) {
			*strchr(answer, '\n') = 0;
			free(question.data);
			close(fd);
			return true;
		}
	}
	errno = EPROTO;
failed:
	free(question.data);
	close(fd);
	return false;
}

/* Say why nothing starts: to the runtime, and to rote-runtime where it asked to be told. */
static int refuse(const char *message, const char *bundle, bool leave_word)
{
	char path[PATH_MAX + 32];
	int fd;

	fprintf(stderr, "%s\n", message);
	if (leave_word && *bundle == '/') {
		snprintf(path, sizeof(path), "%s/" ANSWER_FILE, bundle);
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd >= 0) {
			if (write(fd, message, strlen(message)) < 0)
				fprintf(stderr, "rote: %s: %s\n", path, strerror(errno));
			close(fd);
		}
	}
	return 1;
}

/* Nobody decided. The message goes to standard error, which runtimes show when a hook fails. */
static int undecided(const struct failure *failure, const char *why, char *message, size_t room)
{
	snprintf(message, room, "rote: nobody decided about this start (%s); %s: %s%s", why,
		 failure->allow ? "it goes on" : "it is refused",
		 !*failure->rule ? "no rule says otherwise" :
		 strncmp(failure->rule, "rote gate", 9) ? "rule " : "",
		 failure->rule);
	return failure->allow ? 0 : 1;
}

static int hook_main(const char *gate, bool leave_word)
{
	struct text state = { 0 };
	char id[1024] = "", bundle[PATH_MAX] = "", answer[ANSWER_MAX], message[ANSWER_MAX + 512];
	char why[PATH_MAX + 128];
	struct failure failure;
	const char *object;

	if (!read_all(STDIN_FILENO, &state, STATE_MAX))
		state.size = 0; /* the daemon says what is wrong with it, once */
	object = document(&state);
	if (object) {
		get_string(object, "id", id, sizeof(id));
		get_string(object, "bundle", bundle, sizeof(bundle));
	}
	failure = failure_of(id);
	if (ask(&state, gate, failure.seconds, answer)) {
		if (!strcmp(answer, "allow"))
			return 0;
		if (!strncmp(answer, "deny: ", 6)) {
			snprintf(message, sizeof(message), "rote: %s", answer + 6);
			return refuse(message, bundle, leave_word);
		}
		snprintf(why, sizeof(why), "%s/gate.sock gave no answer of ours", run_dir);
	} else if (errno == ETIMEDOUT) {
		snprintf(why, sizeof(why), "no answer within %g s", failure.seconds);
	} else {
		snprintf(why, sizeof(why), "%s/gate.sock: %s", run_dir, strerror(errno));
	}
	if (undecided(&failure, why, message, sizeof(message)))
		return refuse(message, bundle, leave_word);
	fprintf(stderr, "%s\n", message);
	return 0;
}

/* ---- the runtime ---- */

struct call {
	const char *verb, *bundle, *id, *log;
	bool log_json;
};

static bool option_value(char **argv, int *at, const char *name, const char **value)
{
	const char *arg = argv[*at];
	size_t size = strlen(name);

	arg += arg[0] == '-' && arg[1] == '-' ? 2 : 1; /* one dash is as good as two */
	if (strncmp(arg, name, size))
		return false;
	if (arg[size] == '=') {
		*value = arg + size + 1;
		return true;
	}
	if (arg[size] || !argv[*at + 1])
		return false;
	*value = argv[++*at];
	return true;
}

/* What is asked for. Source: runc's and crun's commands; unknown options take no value. */
static struct call parse_call(char **argv)
{
	static const char *const valued[] = { "root", "criu", "rootless", "log-level", "cgroup-manager",
					      "console-socket", "pid-file", "preserve-fds", "p",
					      "image-path", "work-path", "parent-path", "config", "f",
					      "manage-cgroups-mode", "empty-ns", "lsm-profile",
					      "lsm-mount-context", "tcp-skip-in-flight", NULL };
	struct call call = { .bundle = "." };
	const char *value;
	int at, i;

	for (at = 1; argv[at]; at++) {
		if (argv[at][0] != '-' || !argv[at][1]) {
			if (call.verb)
				call.id = argv[at];
			else
				call.verb = argv[at];
			continue;
		}
		if (option_value(argv, &at, "log-format", &value))
			call.log_json = !strcmp(value, "json");
		else if (option_value(argv, &at, "log", &value))
			call.log = value;
		else if (option_value(argv, &at, "bundle", &value) ||
			 (call.verb && option_value(argv, &at, "b", &value)))
			call.bundle = value;
		else
			for (i = 0; valued[i] && !option_value(argv, &at, valued[i], &value); i++)
				;
	}
	return call;
}

/* config.json with our hook as the first of its stage; false: it is no config.json. */
static bool insert_hook(const char *spec, struct text *out, bool *there)
{
	struct text hook = { 0 };
	struct member hooks, stage, path;
	const char *at, *cut, *cut_end, *before, *after;
	char name[PATH_MAX + 32], other[PATH_MAX + 32];

	snprintf(name, sizeof(name), "%s/rote-hook", own_dir);
	puts_to(&hook, "{\"path\":\"");
	put_escaped(&hook, name);
	puts_to(&hook, "\",\"args\":[\"");
	put_escaped(&hook, name);
	puts_to(&hook, "\",\"--gate=runtime\",\"--word\"],\"timeout\":" HOOK_SECONDS "}");
	*there = false;
	if (!find_member(spec, "hooks", &hooks)) {
		cut = cut_end = spec + 1;
		before = "\"hooks\":{\"createRuntime\":[";
		after = *skip_space(cut) == '}' ? "]}" : "]},";
	} else if (*hooks.value != '{') {
		if (strncmp(hooks.value, "null", 4))
			return false;
		cut = hooks.value;
		cut_end = hooks.end;
		before = "{\"createRuntime\":[";
		after = "]}";
	} else if (!find_member(hooks.value, "createRuntime", &stage)) {
		cut = cut_end = hooks.value + 1;
		before = "\"createRuntime\":[";
		after = *skip_space(cut) == '}' ? "]" : "],";
	} else if (*stage.value != '[') {
		if (strncmp(stage.value, "null", 4))
			return false;
		cut = stage.value;
		cut_end = stage.end;
		before = "[";
		after = "]";
	} else {
		cut = cut_end = stage.value + 1;
		before = "";
		after = *skip_space(cut) == ']' ? "" : ",";
		for (at = skip_space(cut); *at && *at != ']'; at = skip_space(at)) {
			if (*at == '{' && find_member(at, "path", &path) &&
			    unescape(path.value, other, sizeof(other)) && !strcmp(other, name))
				*there = true;
			at = skip_space(skip_value(at, 0));
			if (*at == ',')
				at++;
		}
	}
	put(out, spec, (size_t)(cut - spec));
	puts_to(out, before);
	puts_to(out, hook.data);
	puts_to(out, after);
	puts_to(out, cut_end);
	free(hook.data);
	return true;
}

/* Put the hook into a bundle; "" or what went wrong. */
static const char *prepare_bundle(const char *bundle)
{
	static char problem[PATH_MAX + 256];
	struct text spec = { 0 }, out = { 0 };
	char path[PATH_MAX], fresh[PATH_MAX + 16];
	const char *object;
	struct stat found;
	bool there = false;
	int fd;

	snprintf(path, sizeof(path), "%s/config.json", bundle);
	if (!read_file(path, &spec, SPEC_MAX) || stat(path, &found)) {
		snprintf(problem, sizeof(problem), "%s: %s", path, strerror(errno));
		return problem;
	}
	object = document(&spec);
	if (!object || !insert_hook(object, &out, &there)) {
		snprintf(problem, sizeof(problem), "%s: is no config.json of a container", path);
		return problem;
	}
	if (there)
		return "";
	snprintf(fresh, sizeof(fresh), "%s.rote", path);
	unlink(fresh);
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, out.data, out.size) != (ssize_t)out.size ||
	    fchown(fd, found.st_uid, found.st_gid) || fchmod(fd, found.st_mode & 07777) ||
	    close(fd) || rename(fresh, path)) {
		snprintf(problem, sizeof(problem), "%s: %s", fresh, strerror(errno));
		unlink(fresh);
		return problem;
	}
	return "";
}

/* The last error in the runtime's log is what Docker shows: let it be the reason alone. */
static void tell(const struct call *call, const char *message)
{
	struct text line = { 0 };
	int fd;

	puts_to(&line, call->log_json ? "{\"level\":\"error\",\"msg\":\"" : "level=error msg=\"");
	put_escaped(&line, message);
	puts_to(&line, call->log_json ? "\"}\n" : "\"\n");
	fd = call->log ? open(call->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
	if (fd < 0)
		fprintf(stderr, "%s\n", message);
	else if (write(fd, line.data, line.size) < 0)
		fprintf(stderr, "%s (%s: %s)\n", message, call->log, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(line.data);
}

static void run_real(const struct call *call, char **argv)
{
	char message[PATH_MAX * 3];

	argv[0] = runtime;
	execvp(runtime, argv);
	snprintf(message, sizeof(message),
		 "rote: the real runtime %s cannot be executed: %s; expected what runtime= of "
		 "%s/gate.conf names", runtime, strerror(errno), own_dir);
	tell(call, message);
	_exit(127);
}

static int runtime_main(char **argv)
{
	struct call call = parse_call(argv);
	struct text answer = { 0 };
	char word[PATH_MAX + 32], message[ANSWER_MAX];
	const char *problem;
	struct failure failure;
	pid_t wrapper = getpid(), child;
	int status = 0;

	if (!call.verb || (strcmp(call.verb, "create") && strcmp(call.verb, "run") &&
			   strcmp(call.verb, "restore")))
		run_real(&call, argv);
	problem = prepare_bundle(call.bundle);
	if (*problem) {
		failure = failure_of(call.id ? call.id : "");
		if (undecided(&failure, problem, message, sizeof(message))) {
			tell(&call, message);
			return 1;
		}
		fprintf(stderr, "%s\n", message);
	}
	/* Descriptors that are passed on name the process that is meant: it must stay this one. */
	if (strcmp(call.verb, "create") || getenv("LISTEN_FDS"))
		run_real(&call, argv);
	snprintf(word, sizeof(word), "%s/" ANSWER_FILE, call.bundle);
	unlink(word);
	child = fork();
	if (child <= 0) {
		/* Whoever kills us means the runtime. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!child && getppid() != wrapper)
			_exit(1);
		run_real(&call, argv);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (read_file(word, &answer, ANSWER_MAX)) {
		unlink(word);
		if (status)
			tell(&call, answer.data);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

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
