/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Rote's kernel side: one unit, made of the parts that it includes below.
 *
 * Theory of operation
 * -------------------
 * Whose task is it? A cgroup that looks like a container's is entered into `containers` when it
 * is created, before a task can be in it, so that nothing of a container goes unseen. A task gets
 * its stamp in `tasks` at its first exec inside the container; forks inherit it; nothing inside
 * the container can take it off. What has no stamp yet is the container runtime setting up, and
 * is not judged. A task outside containers costs one look-up, at exec two.
 *
 * What object is it? A path counts only with where its walk ended. The walk goes from the dentry
 * up through the mounts to the root of the mount namespace, never to the caller's chroot, and
 * ends in enum rote_walk_end. Only WALK_END_ROOT can be known.
 *
 * Is it known? The components are matched root first in the trie `edges`: the exact edge, else
 * the class edge, else "*". User space builds the trie so that this walk never has to go back
 * (sensor/models/trie.py). An execution is (caller, program, origin, actor) in `exec_keys`; a
 * change is (node, program) in `write_keys`.
 *
 * Known behaviour is silent. Novelty goes to user space through the ring with everything a person
 * wants to read; user space learns and fills the maps. A record that is lost is novel again next
 * time, and is counted.
 *
 * Kernel structures are read by FIELD() only: address + offsetof. The front end folds offsetof
 * correctly where member access goes wrong (iovisor/bcc#4890).
 *
 * BCC rewrites only the main file; sensor/kernel/unit.py therefore puts the parts in here, in
 * order, before compiling. -D sets ATTACH, TYPED, HEAL, RING_PAGES, CGROUP_SUBSYS and CGROUP_HIERARCHY.
 */

#ifndef RING_PAGES
#define RING_PAGES 2048
#endif
/* Index in task->cgroups->subsys of the hierarchy that tells containers apart; -1: version 2. */
#ifndef CGROUP_SUBSYS
#define CGROUP_SUBSYS -1
#endif
#ifndef CGROUP_HIERARCHY
#define CGROUP_HIERARCHY 0
#endif

/* 1: programs on tracepoints can be skipped; see stamp_heal(). */
#ifndef HEAL
#define HEAL 0
#endif

#include "hooks.h"
#include "events.h"
#include "maps.h"
#include "object.bpf.c"
#include "match.bpf.c"
#include "place.bpf.c"
#include "verdict.bpf.c"
#include "identity.bpf.c"
#include "exec.bpf.c"
#if ATTACH == ATTACH_TRACEPOINT
#include "syscall.bpf.c"
#else
#include "write.bpf.c"
#include "guard.bpf.c"
#endif
#include "selftest.bpf.c"
