/* A library that says and leaves behind that it was loaded. */
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void loaded(void)
{
	int file = open("/tmp/pwned", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (write(1, "PWNED\n", 6) != 6 || file < 0 || write(file, "PWNED\n", 6) != 6)
		return;
	close(file);
}
