/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Changes, seen from the end of system calls: the attachment for kernels that refuse trampolines.
 *
 * sys_exit, raw since 4.17: sees every call that succeeded, with its arguments still in the saved
 * registers. What returns or takes a descriptor is judged by the open file itself. What takes a
 * name is judged by that name and the directory it is relative to, because the dentry is out of
 * reach here (WALK_END_BY_NAME). It misses work that io_uring does in the caller's stead, and it
 * sees names after the fact, so a thread that rewrites them in time is seen by the rewritten one.
 */

#define TS_COMPAT 0x0002
#define COMPAT_FIRST 512 /* the i386 calls stand behind the native ones in `syscalls` */
#define NO_ARGUMENT 255
#define SOCKADDR_UNIX 1

static __always_inline u64 fd_file(s32 fd)
{
	u64 files = FIELD(struct task_struct, bpf_get_current_task(), files);
	u64 table = FIELD(struct files_struct, files, fdt);
	u64 file = 0;

	if (fd < 0 || (u32)fd >= (u32)FIELD(struct fdtable, table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file),
			      (void *)(FIELD(struct fdtable, table, fd) + 8 * (u64)fd));
	return file;
}

/* The directory a name is relative to: the root for absolute ones, else fd or the working one. */
static __always_inline void place_base(struct rote_place *place, s32 fd, u64 name)
{
	u64 fs = FIELD(struct task_struct, bpf_get_current_task(), fs);
	char first = 0;
	u64 file = 0;

	bpf_probe_read_user(&first, 1, (void *)name);
	if (first != '/' && fd != AT_FDCWD)
		file = fd_file(fd);
	if (file)
		place_file(place, file);
	else
		place_path(place, fs + (first == '/' ? __builtin_offsetof(struct fs_struct, root) :
						       __builtin_offsetof(struct fs_struct, pwd)));
}

static __always_inline u64 argument_of(struct rote_scratch *s, u32 number)
{
	return number == NO_ARGUMENT ? 0 : s->argument[number & 7];
}

static __always_inline void load_arguments(struct rote_scratch *s, u64 regs, int compat)
{
	if (compat) {
		s->argument[0] = FIELD(struct pt_regs, regs, bx) & 0xffffffff;
		s->argument[1] = FIELD(struct pt_regs, regs, cx) & 0xffffffff;
		s->argument[2] = FIELD(struct pt_regs, regs, dx) & 0xffffffff;
		s->argument[3] = FIELD(struct pt_regs, regs, si) & 0xffffffff;
		s->argument[4] = FIELD(struct pt_regs, regs, di) & 0xffffffff;
		s->argument[5] = FIELD(struct pt_regs, regs, bp) & 0xffffffff;
		return;
	}
	s->argument[0] = FIELD(struct pt_regs, regs, di);
	s->argument[1] = FIELD(struct pt_regs, regs, si);
	s->argument[2] = FIELD(struct pt_regs, regs, dx);
	s->argument[3] = FIELD(struct pt_regs, regs, r10);
	s->argument[4] = FIELD(struct pt_regs, regs, r8);
	s->argument[5] = FIELD(struct pt_regs, regs, r9);
}

/*
 * Which file the call changed, or 0 when it changed none. Sets what the file does not tell: the
 * operation, and whether it has to be judged although it was judged at its open.
 */
static __always_inline u64 changed_file(struct rote_scratch *s, struct rote_syscall_entry *call,
					long result, u32 *again)
{
	u64 flags = argument_of(s, call->flags_arg);
	u32 operation = call->operation;
	u64 file;

	s->event.operation = operation;
	*again = 0;
	if (call->shape == SYSCALL_SHAPE_OPEN) {
		file = fd_file(result);
		if (!(FIELD(struct file, file, f_mode) & FMODE_WRITE)) {
			if (call->flags_arg == NO_ARGUMENT || !(flags & (O_TRUNC | O_CREAT)))
				return 0;
			/* Opened for reading, yet it may have been created or emptied. */
			if (!(flags & O_TRUNC) &&
			    !(FIELD(struct file, file, f_mode) & FMODE_CREATED))
				return 0;
		}
		if (FIELD(struct file, file, f_mode) & FMODE_CREATED)
			s->event.operation = OPERATION_CREATE;
		s->event.open_flags = flags;
		*again = 1;
		return file;
	}
	if (call->shape == SYSCALL_SHAPE_MAP) {
		u64 protection = mapped_protection(argument_of(s, call->name_arg));

		s->event.open_flags = protection;
		file = fd_file(argument_of(s, call->fd_arg));
		if (file && (protection & PROT_EXEC) && !file_is_own_program(file)) {
			s->event.operation = OPERATION_MAP_EXEC;
			*again = 1;
			return file;
		}
		if (!(protection & PROT_WRITE) || (flags & MAP_TYPE) != MAP_SHARED)
			return 0;
	}
	file = fd_file(argument_of(s, call->fd_arg));
	if (operation != OPERATION_WRITE && operation != OPERATION_MAP_WRITE &&
	    operation != OPERATION_TRUNCATE)
		*again = 1;
	return file;
}

/* The names a call changes, and the directories they are relative to. Returns 0 for no file. */
static __always_inline int place_names(struct rote_scratch *s, struct rote_syscall_entry *call)
{
	s->event.operation = call->operation;
	s->by_name = 1;
	s->objects = 1;
	s->names[0] = argument_of(s, call->name_arg);
	if (call->shape == SYSCALL_SHAPE_BIND) {
		u16 family = 0;
		u8 first = 0;

		bpf_probe_read_user(&family, sizeof(family), (void *)s->names[0]);
		s->names[0] += sizeof(family);
		bpf_probe_read_user(&first, sizeof(first), (void *)s->names[0]);
		if (family != SOCKADDR_UNIX || !first) /* an abstract name is no file */
			return 0;
		place_base(&s->place[0], AT_FDCWD, s->names[0]);
		return 1;
	}
	place_base(&s->place[0],
		   call->fd_arg == NO_ARGUMENT ? AT_FDCWD : (s32)argument_of(s, call->fd_arg),
		   s->names[0]);
	if (call->shape == SYSCALL_SHAPE_NAMES) {
		s->objects = 2;
		s->names[1] = argument_of(s, call->name2_arg);
		place_base(&s->place[1],
			   call->fd2_arg == NO_ARGUMENT ? AT_FDCWD :
							  (s32)argument_of(s, call->fd2_arg),
			   s->names[1]);
	}
	return 1;
}

/*
 * What the call changed: an open file (s->file), or names. Returns 0 when there is nothing to judge.
 */
static __always_inline int place_change(struct rote_scratch *s, struct rote_container *c,
					struct rote_syscall_entry *call, long result)
{
	u32 again;
	u64 file;

	s->file = 0;
	if (call->shape != SYSCALL_SHAPE_OPEN && call->shape != SYSCALL_SHAPE_FD &&
	    call->shape != SYSCALL_SHAPE_MAP)
		return place_names(s, call);
	if (call->operation == OPERATION_WRITE && !config_value(CONFIG_WRITE_PROBE))
		return 0;
	file = changed_file(s, call, result, &again);
	if (!file || !file_is_object(file, s->event.operation) ||
	    (!again && file_is_judged(c, file)))
		return 0;
	s->file = file;
	place_file(&s->place[0], file);
	s->objects = 1;
	return 1;
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
	u64 regs = ctx->args[0];
	long result = ctx->args[1];
	struct rote_task_stamp *stamp = task_stamp();
	struct rote_syscall_entry *call;
	struct rote_container *c;
	struct rote_scratch *s;
	u32 number;
	u64 id;
	int compat;

	if (!stamp || (result < 0 && result >= -4095))
		return 0;
	compat = FIELD(struct task_struct, bpf_get_current_task(), thread_info.status) & TS_COMPAT;
	number = FIELD(struct pt_regs, regs, orig_ax);
	if (number >= COMPAT_FIRST)
		return 0;
	if (compat)
		number += COMPAT_FIRST;
	call = syscalls.lookup(&number);
	if (!call || !call->shape)
		return 0;
	id = stamp->container;
	c = containers.lookup(&id);
	if (!c)
		return 0;
	s = scratch_take();
	if (!s) {
		COUNT_ERROR(id, ERROR_SCRATCH);
		return 0;
	}
	load_arguments(s, regs, compat);
	if (place_change(s, c, call, result)) {
		s->classes[0] = operation_class(s->event.operation);
		/* In memory, so that from here on a call with a file looks like one without. */
		FORGET();
		if (change_judge(ctx, s, c, stamp, 1, NULL, 1) && s->file &&
		    s->event.operation != OPERATION_MAP_EXEC)
			file_note_judged(s, c, s->file);
	}
	scratch_give(s);
	return 0;
}
