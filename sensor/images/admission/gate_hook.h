/* SPDX-License-Identifier: Apache-2.0
 *
 * Part of gate.c: what was chosen beforehand, and the hook that asks.
 */

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

/* The id becomes a name in our directory: nothing else of the file system. */
static bool is_name(const char *id)
{
	return *id && *id != '.' && strlen(id) < 256 && !strchr(id, '/');
}

/* Whether a container was taken out of service: nobody needs to be asked. */
static bool is_barred(const char *id, char *message, size_t room)
{
	struct text text = { 0 };
	char path[PATH_MAX + 512];
	bool barred = false;

	snprintf(path, sizeof(path), "%s/gate/%s", run_dir, id);
	if (is_name(id) && read_file(path, &text, 4096) && !strncmp(text.data, "barred ", 7)) {
		barred = true;
		snprintf(message, room, "rote: %.*s", (int)strcspn(text.data + 7, "\n"),
			 text.data + 7);
	}
	free(text.data);
	return barred;
}

static struct failure failure_of(const char *id)
{
	struct failure failure = { fail_allow, fail_seconds, "" };

	if (is_name(id) && read_failure(id, &failure))
		return failure;
	if (read_failure("default", &failure))
		return failure;
	failure = (struct failure){ fail_allow, fail_seconds, "rote gate install --fail closed" };
	return failure;
}

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
		 !*failure->rule			? "no rule says otherwise" :
		 strncmp(failure->rule, "rote gate", 9) ? "rule " :
							  "",
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
	if (is_barred(id, message, sizeof(message)))
		return refuse(message, bundle, leave_word);
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
