/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest program that can be executed: linked statically, and dynamically. */

int main(void)
{
	return 0;
}
