/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * A program, or with -shared a library, that says it ran: PWNED, or OK when built with -DKNOWN.
 */
#include <unistd.h>

#ifdef KNOWN
#define TEXT "OK\n"
#else
#define TEXT "PWNED\n"
#endif

__attribute__((constructor)) static void speak(void)
{
	if (write(1, TEXT, sizeof(TEXT) - 1) < 0)
		_exit(1);
}

int main(void)
{
	return 0;
}
