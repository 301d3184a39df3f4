/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * How a unit hooks into the kernel and reads its structures; shared by sensor.bpf.c and
 * lock.bpf.c.
 */
#ifndef ROTE_HOOKS_H
#define ROTE_HOOKS_H

#define ATTACH_TRACEPOINT 0
#define ATTACH_FMOD_RET 1
#define ATTACH_LSM 2

#ifndef ATTACH
#define ATTACH ATTACH_TRACEPOINT
#endif
/*
 * The same body on both attachments that can refuse: a BPF LSM program, or, where `bpf` is not in
 * the LSM list, an fmod_ret program on the function that calls the LSMs.
 */
#if ATTACH == ATTACH_LSM
#define HOOK(name, ...) LSM_PROBE(name, ##__VA_ARGS__)
#define HOOK_EXEC(...) LSM_PROBE(bprm_check_security, ##__VA_ARGS__)
#else
#define HOOK(name, ...) KMOD_RET(security_##name, ##__VA_ARGS__)
#define HOOK_EXEC(...) KMOD_RET(security_bprm_check, ##__VA_ARGS__)
#endif

#define EPERM 1
#define SIGKILL 9

/*
 * Zero-extended value of a field of a kernel structure; 0 when it cannot be read. p is a u64 so
 * that neither BCC's rewriter nor its struct layout has a part in it.
 */
#define FIELD(type, p, field)                                                                      \
	({                                                                                         \
		u64 _value = 0;                                                                    \
		bpf_probe_read_kernel(&_value, sizeof(((type *)0)->field),                         \
				      (void *)((u64)(p) + __builtin_offsetof(type, field)));       \
		_value;                                                                            \
	})

#endif /* ROTE_HOOKS_H */
