/* Runs itself out of memory that has no file: what an attacker does who wants to leave none. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment)
{
	char *again[] = { "hidden", "now", NULL };
	struct stat found;
	int self, memory;

	if (argc > 1) {
		pause();
		return 0;
	}
	self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	memory = memfd_create("kworker", MFD_CLOEXEC);
	if (self < 0 || memory < 0 || fstat(self, &found) < 0)
		return 1;
	if (sendfile(memory, self, NULL, found.st_size) != found.st_size)
		return 2;
	fexecve(memory, again, environment);
	perror("fexecve");
	return 3;
}
