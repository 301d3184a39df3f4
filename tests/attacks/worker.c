/* A small service with a hole: a POST is given to a shell, anything else writes a stamp, by a shell
 * too. One process for each request; HTTP as far as a proxy needs it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIZE 65536

static void answer(int connection)
{
	static char request[SIZE], said[SIZE];
	size_t length = 0, wanted = 0;
	char *body = NULL;
	FILE *shell;

	while (length < SIZE - 1) {
		ssize_t got = read(connection, request + length, SIZE - 1 - length);

		if (got <= 0)
			return;
		length += got;
		request[length] = 0;
		body = strstr(request, "\r\n\r\n");
		if (body) {
			char *field = strcasestr(request, "\r\ncontent-length:");

			body += 4;
			wanted = field ? strtoul(field + 17, NULL, 10) : 0;
			if ((size_t)(request + length - body) >= wanted)
				break;
		}
	}
	if (!body)
		return;
	body[wanted] = 0;
	shell = popen(strncmp(request, "POST", 4) ? "date >/var/lib/worker/stamp" : body, "r");
	length = shell ? fread(said, 1, SIZE - 1, shell) : 0;
	if (shell)
		pclose(shell);
	dprintf(connection, "HTTP/1.0 200 OK\r\n\r\n%.*s\n", (int)length, said);
}

int main(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(9000) };
	int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listening, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(listening, 16)) {
		perror("worker: 127.0.0.1:9000");
		return 1;
	}
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);

		if (connection < 0)
			continue;
		if (fork() == 0) {
			signal(SIGCHLD, SIG_DFL);
			answer(connection);
			_exit(0);
		}
		close(connection);
	}
}
