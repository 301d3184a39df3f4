/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does each operation over and over and prints what one of them takes, in nanoseconds of the
 * clock: "name nanoseconds", the median of the rounds. In a machine that counts instructions
 * (scripts/vm --icount) that is the number of instructions, the kernel's included.
 *
 *   operations PROGRAMS TMPFS EXT4 ROUNDS [NAME]
 *
 * PROGRAMS is where tiny-static and tiny-dynamic lie, TMPFS and EXT4 are folders of its own. The
 * first round is not counted. With NAME: only that operation.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS_MAX 100

static const char *programs;
static const char *places[2]; /* of tmpfs, of ext4 */
static char block[4096];
static int data[2]; /* open for writing, one in each place */
static int sink;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static const char *in(const char *place, const char *name)
{
	static char paths[4][256];
	static unsigned int next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", place, name);
	return path;
}

static void execute(const char *path)
{
	char *const arguments[] = { (char *)path, NULL };
	char *const none[] = { NULL };
	int status;
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		execve(path, arguments, none);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) != pid || status) {
		fprintf(stderr, "%s: ended with status %#x\n", path, status);
		exit(1);
	}
}

static void write_block(int fd, size_t size)
{
	if (pwrite(fd, block, size, 0) != (ssize_t)size)
		die("pwrite");
}

static void create(const char *place)
{
	const char *path = in(place, "new");
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

	if (fd < 0 || write(fd, block, 1) != 1 || close(fd) || unlink(path))
		die(path);
}

static void move(const char *place)
{
	if (rename(in(place, "a"), in(place, "b")) || rename(in(place, "b"), in(place, "a")))
		die("rename");
}

static void exec_static(void)
{
	execute(in(programs, "tiny-static"));
}

static void exec_dynamic(void)
{
	execute(in(programs, "tiny-dynamic"));
}

static void write_tmpfs_1(void)
{
	write_block(data[0], 1);
}

static void write_tmpfs_4096(void)
{
	write_block(data[0], sizeof(block));
}

static void write_ext4_1(void)
{
	write_block(data[1], 1);
}

static void write_ext4_4096(void)
{
	write_block(data[1], sizeof(block));
}

static void write_null(void)
{
	if (write(sink, block, 1) != 1)
		die("write");
}

static void create_tmpfs(void)
{
	create(places[0]);
}

static void create_ext4(void)
{
	create(places[1]);
}

static void rename_tmpfs(void)
{
	move(places[0]);
}

static void rename_ext4(void)
{
	move(places[1]);
}

static void open_read(void)
{
	int fd = open(in(places[0], "a"), O_RDONLY);

	if (fd < 0 || close(fd))
		die("open");
}

static void open_write(void)
{
	int fd = open(in(places[0], "a"), O_WRONLY);

	if (fd < 0 || close(fd))
		die("open");
}

static const struct operation {
	const char *name;
	void (*run)(void);
	unsigned int runs; /* a round */
	unsigned int of_these; /* operations a run */
} operations[] = {
	{ "exec-static", exec_static, 10, 1 },
	{ "exec-dynamic", exec_dynamic, 6, 1 },
	{ "write-tmpfs-1", write_tmpfs_1, 500, 1 },
	{ "write-tmpfs-4096", write_tmpfs_4096, 500, 1 },
	{ "write-ext4-1", write_ext4_1, 500, 1 },
	{ "write-ext4-4096", write_ext4_4096, 500, 1 },
	{ "write-null", write_null, 1000, 1 },
	{ "create-tmpfs", create_tmpfs, 100, 1 },
	{ "create-ext4", create_ext4, 50, 1 },
	{ "rename-tmpfs", rename_tmpfs, 100, 2 },
	{ "rename-ext4", rename_ext4, 50, 2 },
	{ "open-read", open_read, 300, 1 },
	{ "open-write", open_write, 300, 1 },
};

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double round_of(const struct operation *operation)
{
	struct timespec start, end;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (unsigned int i = 0; i < operation->runs; i++)
		operation->run();
	clock_gettime(CLOCK_MONOTONIC, &end);
	return ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) /
	       operation->runs / operation->of_these;
}

int main(int argc, char **argv)
{
	double results[ROUNDS_MAX];
	int rounds;

	if (argc < 5) {
		fprintf(stderr, "operations PROGRAMS TMPFS EXT4 ROUNDS [NAME]\n");
		return 2;
	}
	programs = argv[1];
	rounds = atoi(argv[4]);
	if (rounds < 1 || rounds > ROUNDS_MAX)
		return 2;
	sink = open("/dev/null", O_WRONLY);
	for (int i = 0; i < 2; i++) {
		places[i] = argv[2 + i];
		data[i] = open(in(places[i], "data"), O_WRONLY);
		if (data[i] < 0)
			die(places[i]);
	}
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
		if (argc > 5 && strcmp(argv[5], operations[i].name))
			continue;
		round_of(&operations[i]);
		for (int round = 0; round < rounds; round++)
			results[round] = round_of(&operations[i]);
		qsort(results, rounds, sizeof(results[0]), compare);
		printf("%s %.1f %u\n", operations[i].name, results[rounds / 2],
		       (rounds + 1) * operations[i].runs * operations[i].of_these);
	}
	return 0;
}
