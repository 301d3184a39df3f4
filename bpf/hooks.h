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
/* 1: kernel structures can be read through pointers whose type the verifier knows; since 5.11. */
#ifndef TYPED
#define TYPED 0
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

/*
 * The same where the verifier knows what p points to: a hook's argument, the current task, and what
 * was loaded from those. One instruction instead of sixty. What has been in a map is a plain
 * number again and needs FIELD(). Where TYPED is 0, so does everything.
 */
#if TYPED
#define LOAD(type, p, field)                                                                       \
	({                                                                                         \
		u64 _value;                                                                        \
		switch (sizeof(((type *)0)->field)) {                                              \
		case 1:                                                                            \
			asm volatile("%0 = *(u8 *)(%1 + %2)"                                       \
				     : "=r"(_value)                                                \
				     : "r"((u64)(p)), "i"(__builtin_offsetof(type, field)));       \
			break;                                                                     \
		case 2:                                                                            \
			asm volatile("%0 = *(u16 *)(%1 + %2)"                                      \
				     : "=r"(_value)                                                \
				     : "r"((u64)(p)), "i"(__builtin_offsetof(type, field)));       \
			break;                                                                     \
		case 4:                                                                            \
			asm volatile("%0 = *(u32 *)(%1 + %2)"                                      \
				     : "=r"(_value)                                                \
				     : "r"((u64)(p)), "i"(__builtin_offsetof(type, field)));       \
			break;                                                                     \
		default:                                                                           \
			asm volatile("%0 = *(u64 *)(%1 + %2)"                                      \
				     : "=r"(_value)                                                \
				     : "r"((u64)(p)), "i"(__builtin_offsetof(type, field)));       \
		}                                                                                  \
		_value;                                                                            \
	})
#define CURRENT_TASK() ((u64)bpf_get_current_task_btf())
#else
#define LOAD(type, p, field) FIELD(type, p, field)
#define CURRENT_TASK() ((u64)bpf_get_current_task())
#endif

/* In code for both kinds of pointers: known is a constant. */
#define GET(known, type, p, field) ((known) ? LOAD(type, p, field) : FIELD(type, p, field))

#endif /* ROTE_HOOKS_H */
