/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Ways to act through others: another process's memory, the kernel's own code, descriptors that
 * came from elsewhere, and Rote's own objects.
 */

#define PTRACE_MODE_ATTACH 0x02
#define FS_IOC_SETFLAGS 0x40086602
#define FS_IOC32_SETFLAGS 0x40046602
#define FS_IOC_FSSETXATTR 0x401c5820

/* The object is the program that runs in `task`: who may trace nginx is a question of its own. */
static __always_inline int trace_change(void *ctx, u64 task, u64 mode)
{
	struct rote_change change = {};
	u64 file;

	if (!change_find(&change))
		return 0;
	file = task_program_file(task);
	if (!file)
		return 0;
	if (!change_begin(&change, OPERATION_TRACE))
		return change_failed(&change);
	change.s->event.open_flags = mode;
	place_file(&change.s->place[0], file);
	change_judge(ctx, change.s, change.c, change.stamp, 1, NULL, 0);
	return change_end(&change);
}

/*
 * ptrace_access_check, since 2.6: PTRACE_ATTACH, process_vm_writev, /proc/PID/mem, pidfd_getfd.
 * Reading /proc/PID comes here without the attach bit.
 */
HOOK(ptrace_access_check, struct task_struct *child, unsigned int mode)
{
	if (!(mode & PTRACE_MODE_ATTACH))
		return 0;
	return trace_change(ctx, (u64)child, mode);
}

/* ptrace_traceme, since 2.6: the child asks; its parent will have the rights. */
HOOK(ptrace_traceme, struct task_struct *parent)
{
	return trace_change(ctx, (u64)parent, PTRACE_MODE_ATTACH);
}

/* kernel_read_file, since 4.6: finit_module, kexec_file_load, firmware. */
HOOK(kernel_read_file, struct file *file)
{
	return file_change(ctx, (u64)file, OPERATION_LOAD_CODE, 0, 1, 0);
}

/*
 * kernel_load_data, since 4.18: init_module and kexec_load, from memory. There is no object that
 * could be known.
 */
HOOK(kernel_load_data, unsigned int id)
{
	struct rote_change change = {};

	if (!change_find(&change))
		return 0;
	if (!change_begin(&change, OPERATION_LOAD_CODE))
		return change_failed(&change);
	change.s->event.open_flags = id;
	change_judge(ctx, change.s, change.c, change.stamp, 0, NULL, 0);
	return change_end(&change);
}

/*
 * file_receive, since 2.6: a descriptor comes in by SCM_RIGHTS or pidfd_getfd. Its later writes
 * pass no hook that stays attached, so it is judged as if it were opened here.
 */
HOOK(file_receive, struct file *file)
{
	if (!(LOAD(struct file, (u64)file, f_mode) & FMODE_WRITE))
		return 0;
	return file_change(ctx, (u64)file, OPERATION_RECEIVE, 0, 0, 0);
}

/* file_ioctl, since 2.6: the attributes that chattr(1) sets need no descriptor for writing. */
HOOK(file_ioctl, struct file *file, unsigned int command)
{
	if (command != FS_IOC_SETFLAGS && command != FS_IOC32_SETFLAGS &&
	    command != FS_IOC_FSSETXATTR)
		return 0;
	return file_change(ctx, (u64)file, OPERATION_CHMOD, 0, 1, 0);
}

/*
 * bpf_map and bpf_prog, since 4.15: somebody gets a descriptor of a map or program. From inside a
 * container nobody gets one of Rote's.
 */
HOOK(bpf_map, struct bpf_map *map)
{
	u32 id = FIELD(struct bpf_map, map, id);

	if (!task_stamp())
		return 0;
	return own_objects.lookup(&id) ? -EPERM : 0;
}

HOOK(bpf_prog, struct bpf_prog *prog)
{
	u32 id = FIELD(struct bpf_prog_aux, FIELD(struct bpf_prog, prog, aux), id) | OWN_PROGRAM;

	if (!task_stamp())
		return 0;
	return own_objects.lookup(&id) ? -EPERM : 0;
}
