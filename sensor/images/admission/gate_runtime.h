/* SPDX-License-Identifier: Apache-2.0
 *
 * Part of gate.c: the runtime that puts the hook in.
 */

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
	static const char *const valued[] = { "root",
					      "criu",
					      "rootless",
					      "log-level",
					      "cgroup-manager",
					      "console-socket",
					      "pid-file",
					      "preserve-fds",
					      "p",
					      "image-path",
					      "work-path",
					      "parent-path",
					      "config",
					      "f",
					      "manage-cgroups-mode",
					      "empty-ns",
					      "lsm-profile",
					      "lsm-mount-context",
					      "tcp-skip-in-flight",
					      NULL };
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
		 "%s/gate.conf names",
		 runtime, strerror(errno), own_dir);
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
	if (is_barred(call.id ? call.id : "", message, sizeof(message))) {
		tell(&call, message);
		return 1;
	}
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
