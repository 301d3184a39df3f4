/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * A program, or with -shared a library, that says it ran: PWNED, or OK when built with -DKNOWN.
 */
#ifdef KNOWN
#define TEXT "OK\n"
#else
#define TEXT "PWNED\n"
#endif

__attribute__((constructor)) static void speak(void)
{
	long result;

	/* Not write(3): what is loaded by LD_AUDIT stands alone. */
	asm volatile("syscall"
		     : "=a"(result)
		     : "0"(1), "D"(1), "S"(TEXT), "d"(sizeof(TEXT) - 1)
		     : "rcx", "r11", "memory");
}

/* What LD_AUDIT asks of a library: rtld-audit(7). */
unsigned int la_version(unsigned int version)
{
	return version;
}

int main(void)
{
	return 0;
}
