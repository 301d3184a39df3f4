/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * `rote run --lock`, a unit of its own: nobody on the host but `rote` itself traces or signals the
 * daemon, removes pins, or gets a descriptor of Rote's maps and programs. Loaded on demand only,
 * because these checks are made for every process of the host.
 *
 * A keeper is a process that came to be by executing the `rote` script (its inode is in the
 * settings), the daemon of course, and the process that loaded all this. A keeper that executes
 * something else, and its children, are none.
 */
#include "hooks.h"
#include "events.h"

#define BPF_FS_MAGIC 0xcafe4a11
#define PIN_DEPTH 4 /* directory of pins / version / links / name */
#define PTRACE_MODE_ATTACH 0x02

/* How far a process has come to be a keeper. */
#define KEEPER_SCRIPT_SEEN 1 /* its exec of the script has begun */
#define KEEPER 2

/* pid → how far. K and U write, K reads. */
BPF_HASH(lock_keepers, u32, u32, 1024);

/* Rote's own maps (id) and programs (id | OWN_PROGRAM), of both units. U writes, K reads. */
BPF_HASH(lock_objects, u32, u32, 512);

/* enum rote_lock_key → value. U writes, K reads. */
BPF_ARRAY(lock_settings, u64, 8);

static __always_inline u64 lock_value(u32 key)
{
	u64 *value = lock_settings.lookup(&key);

	return value ? *value : 0;
}

static __always_inline int is_keeper(void)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u32 *state = lock_keepers.lookup(&pid);

	return state && *state == KEEPER;
}

static __always_inline u64 inode_number(u64 inode)
{
	return FIELD(struct inode, inode, i_ino);
}

static __always_inline u64 super_device(u64 super)
{
	return (u32)FIELD(struct super_block, super, s_dev);
}

static __always_inline int is_script(u64 file)
{
	u64 inode = FIELD(struct file, file, f_inode);

	return inode_number(inode) == lock_value(LOCK_SCRIPT_INODE) &&
	       super_device(FIELD(struct inode, inode, i_sb)) == lock_value(LOCK_SCRIPT_DEVICE);
}

/* A script has been replaced by its interpreter: its own name stays in `filename`. */
static __always_inline int is_interpreted(u64 bprm)
{
	return FIELD(struct linux_binprm, bprm, filename) !=
	       FIELD(struct linux_binprm, bprm, interp);
}

/*
 * bprm_check_security, since 2.6: a script comes here first, then its interpreter. An exec that
 * begins anew takes back what an earlier one had begun that failed.
 */
HOOK_EXEC(struct linux_binprm *bprm)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u32 seen = KEEPER_SCRIPT_SEEN;
	u32 *state;

	if (is_interpreted((u64)bprm))
		return 0;
	state = lock_keepers.lookup(&pid);
	if (state && *state == KEEPER)
		return 0; /* until its exec is complete it stays one */
	if (is_script(FIELD(struct linux_binprm, bprm, file)))
		lock_keepers.update(&pid, &seen);
	else if (state)
		lock_keepers.delete(&pid);
	return 0;
}

/* sched_process_exec, raw since 4.17: the exec is complete. */
RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u32 *state = lock_keepers.lookup(&pid);

	if (!state)
		return 0;
	if (*state == KEEPER_SCRIPT_SEEN && is_interpreted(ctx->args[2]))
		*state = KEEPER;
	else
		lock_keepers.delete(&pid);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u64 task = ctx->args[0];
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u64 signal;

	if (!lock_keepers.lookup(&pid))
		return 0;
	signal = FIELD(struct task_struct, task, signal);
	if ((s32)FIELD(struct signal_struct, signal, live.counter) <= 0)
		lock_keepers.delete(&pid);
	return 0;
}

/* task_kill, since 2.6: every signal that a process sends; number 0 only asks. */
HOOK(task_kill, struct task_struct *task, void *info, int number)
{
	u32 pid = FIELD(struct task_struct, (u64)task, tgid);

	if (!number || !pid || pid != lock_value(LOCK_DAEMON_PID) ||
	    pid == (u32)(bpf_get_current_pid_tgid() >> 32))
		return 0;
	return is_keeper() ? 0 : -EPERM;
}

/* ptrace_access_check, since 2.6: tracing, another's memory, another's descriptors. */
HOOK(ptrace_access_check, struct task_struct *child, unsigned int mode)
{
	u32 pid = FIELD(struct task_struct, (u64)child, tgid);

	if (!(mode & PTRACE_MODE_ATTACH) || !pid || pid != lock_value(LOCK_DAEMON_PID))
		return 0;
	return is_keeper() ? 0 : -EPERM;
}

/* Whether an entry of the BPF file system is the directory of Rote's pins or lies below it. */
static __always_inline int pin_is_held(u64 dentry)
{
	u64 super = FIELD(struct dentry, dentry, d_sb);

	if (FIELD(struct super_block, super, s_magic) != BPF_FS_MAGIC ||
	    super_device(super) != lock_value(LOCK_BPFFS))
		return 0;
	for (int i = 0; i < PIN_DEPTH; i++) {
		if (inode_number(FIELD(struct dentry, dentry, d_inode)) == lock_value(LOCK_PINS))
			return is_keeper() ? 0 : -EPERM;
		dentry = FIELD(struct dentry, dentry, d_parent);
	}
	return 0;
}

/* path_* since 2.6.29. */
HOOK(path_unlink, struct path *dir, struct dentry *dentry)
{
	return pin_is_held((u64)dentry);
}

HOOK(path_rmdir, struct path *dir, struct dentry *dentry)
{
	return pin_is_held((u64)dentry);
}

HOOK(path_rename, struct path *old_dir, struct dentry *old_dentry, struct path *new_dir,
     struct dentry *new_dentry)
{
	int held = pin_is_held((u64)old_dentry);

	return held ? held : pin_is_held((u64)new_dentry);
}

/* A mount over the pins, or the end of their mount, would hide them from `rote`. */
static __always_inline int mount_is_held(u64 dentry)
{
	u64 super = FIELD(struct dentry, dentry, d_sb);

	if (FIELD(struct super_block, super, s_magic) != BPF_FS_MAGIC ||
	    super_device(super) != lock_value(LOCK_BPFFS))
		return 0;
	return is_keeper() ? 0 : -EPERM;
}

HOOK(sb_mount, const char *device, struct path *path)
{
	return mount_is_held(FIELD(struct path, (u64)path, dentry));
}

HOOK(move_mount, struct path *from, struct path *to)
{
	return mount_is_held(FIELD(struct path, (u64)to, dentry));
}

HOOK(sb_umount, struct vfsmount *mount)
{
	return mount_is_held(FIELD(struct vfsmount, (u64)mount, mnt_root));
}

static __always_inline int object_is_held(u32 id)
{
	if (!lock_objects.lookup(&id))
		return 0;
	return is_keeper() ? 0 : -EPERM;
}

/* bpf_map and bpf_prog, since 4.15: somebody gets a descriptor of a map or program. */
HOOK(bpf_map, struct bpf_map *map)
{
	return object_is_held(FIELD(struct bpf_map, (u64)map, id));
}

HOOK(bpf_prog, struct bpf_prog *prog)
{
	u64 aux = FIELD(struct bpf_prog, (u64)prog, aux);

	return object_is_held(FIELD(struct bpf_prog_aux, aux, id) | OWN_PROGRAM);
}
