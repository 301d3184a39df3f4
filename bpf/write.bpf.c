/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Changes, seen at the kernel's security hooks: the attachment for kernels with trampolines.
 *
 * The same bodies run as BPF LSM programs or, where `bpf` is not in the LSM list, as fentry
 * programs on the functions that call the hooks. They see every way to the object, io_uring and
 * kernel threads acting for a task included, with the dentry itself.
 */

#if ATTACH == ATTACH_LSM
#define HOOK(name, ...) LSM_PROBE(name, ##__VA_ARGS__)
#else
#define HOOK(name, ...) KFUNC_PROBE(security_##name, ##__VA_ARGS__)
#endif

/* The stamp of the acting process, or NULL for everybody outside containers: the only look-up. */
static __always_inline struct rote_task_stamp *task_stamp(void)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;

	return tasks.lookup(&pid);
}

static __always_inline struct rote_container *stamp_container(struct rote_task_stamp *stamp)
{
	u64 id = stamp->container;

	return containers.lookup(&id);
}

static __always_inline struct rote_scratch *change_begin(struct rote_container *c, u32 operation)
{
	struct rote_scratch *s = scratch_take();

	if (!s) {
		COUNT_ERROR(c->container, ERROR_SCRATCH);
		return NULL;
	}
	s->event.operation = operation;
	s->classes[0] = operation_class(operation);
	s->objects = 1;
	return s;
}

/* A change of the entry `dentry` in the directory `dir`. */
static __always_inline int entry_change(void *ctx, u64 dir, u64 dentry, u32 operation, u32 mode)
{
	struct rote_task_stamp *stamp = task_stamp();
	struct rote_container *c;
	struct rote_scratch *s;

	if (!stamp)
		return 0;
	c = stamp_container(stamp);
	if (!c)
		return 0;
	s = change_begin(c, operation);
	if (!s)
		return 0;
	s->place[0].dentry = dentry;
	s->place[0].mount = mount_of(FIELD(struct path, dir, mnt));
	s->event.open_flags = mode;
	change_judge(ctx, s, c, stamp);
	return 0;
}

/* A change of the object `path`. */
static __always_inline int path_change(void *ctx, u64 path, u32 operation, u32 mode)
{
	return entry_change(ctx, path, FIELD(struct path, path, dentry), operation, mode);
}

/* A change of an inode where the hook is told no mount: the container's root mount is assumed. */
static __always_inline int inode_change(void *ctx, u64 dentry, u32 operation)
{
	struct rote_task_stamp *stamp = task_stamp();
	struct rote_container *c;
	struct rote_scratch *s;

	if (!stamp)
		return 0;
	c = stamp_container(stamp);
	if (!c || FIELD(struct dentry, dentry, d_sb) != c->root_super)
		return 0;
	s = change_begin(c, operation);
	if (!s)
		return 0;
	s->place[0].dentry = dentry;
	s->place[0].mount = c->root_mount;
	change_judge(ctx, s, c, stamp);
	return 0;
}

static __always_inline int file_change(void *ctx, u64 file, u32 operation, u32 flags, int again)
{
	struct rote_task_stamp *stamp = task_stamp();
	struct rote_container *c;
	struct rote_scratch *s;

	if (!stamp || !file || !file_is_object(file) || (!again && file_is_judged(file)))
		return 0;
	c = stamp_container(stamp);
	if (!c)
		return 0;
	s = change_begin(c, operation);
	if (!s)
		return 0;
	s->event.open_flags = flags;
	place_file(&s->place[0], file);
	if (change_judge(ctx, s, c, stamp) && operation != OPERATION_MAP_EXEC)
		file_note_judged(file);
	return 0;
}

/* file_open, since 2.6: every open that will succeed. O_TRUNC and O_CREAT are still visible. */
HOOK(file_open, struct file *file)
{
	u32 mode = FIELD(struct file, file, f_mode);
	u32 flags = FIELD(struct file, file, f_flags);

	if (!(mode & (FMODE_WRITE | FMODE_CREATED)) && !(flags & O_TRUNC))
		return 0;
	return file_change(ctx, (u64)file,
			   mode & FMODE_CREATED ? OPERATION_CREATE : OPERATION_OPEN_WRITE, flags,
			   1);
}

/*
 * file_permission, since 2.6: every write through a descriptor (vfs_write, writev, sendfile,
 * splice, copy_file_range, io_uring). Only files that were not judged at their open count here.
 */
HOOK(file_permission, struct file *file, int mask)
{
	if (!(mask & MAY_WRITE) || !task_stamp() || !config_value(CONFIG_WRITE_PROBE))
		return 0;
	return file_change(ctx, (u64)file, OPERATION_WRITE, 0, 0);
}

/* mmap_file, since 2.6: mapped code is executed, a shared writable mapping writes. */
#if ATTACH == ATTACH_LSM
HOOK(mmap_file, struct file *file, unsigned long requested, unsigned long protection,
     unsigned long flags)
#else
HOOK(mmap_file, struct file *file, unsigned long protection, unsigned long flags)
#endif
{
	if (!file)
		return 0;
	/* Code by another way than exec: ld.so, LD_PRELOAD, dlopen, a loader in user space. */
	if ((protection & PROT_EXEC) && task_stamp() && !file_is_own_program((u64)file))
		return file_change(ctx, (u64)file, OPERATION_MAP_EXEC, protection, 1);
	if (!(protection & PROT_WRITE) || (flags & MAP_TYPE) != MAP_SHARED)
		return 0;
	return file_change(ctx, (u64)file, OPERATION_MAP_WRITE, protection, 0);
}

/* path_truncate, since 2.6: truncate(2); before 6.2 ftruncate and O_TRUNC as well. */
HOOK(path_truncate, struct path *path)
{
	return path_change(ctx, (u64)path, OPERATION_TRUNCATE, 0);
}

/* file_truncate, since 6.2: ftruncate and O_TRUNC; the open was judged. */
HOOK(file_truncate, struct file *file)
{
	return file_change(ctx, (u64)file, OPERATION_TRUNCATE, 0, 0);
}

/* path_* below, since 2.6.29 with CONFIG_SECURITY_PATH (not on RHEL). */
HOOK(path_unlink, struct path *dir, struct dentry *dentry)
{
	return entry_change(ctx, (u64)dir, (u64)dentry, OPERATION_UNLINK, 0);
}

HOOK(path_rmdir, struct path *dir, struct dentry *dentry)
{
	return entry_change(ctx, (u64)dir, (u64)dentry, OPERATION_RMDIR, 0);
}

HOOK(path_mkdir, struct path *dir, struct dentry *dentry, umode_t mode)
{
	return entry_change(ctx, (u64)dir, (u64)dentry, OPERATION_MKDIR, mode);
}

HOOK(path_mknod, struct path *dir, struct dentry *dentry, umode_t mode, unsigned int device)
{
	/* A regular file is judged by the open that creates it. */
	if (!(mode & S_IFMT) || (mode & S_IFMT) == S_IFREG)
		return 0;
	return entry_change(ctx, (u64)dir, (u64)dentry, OPERATION_MKNOD, mode);
}

HOOK(path_symlink, struct path *dir, struct dentry *dentry, const char *target)
{
	return entry_change(ctx, (u64)dir, (u64)dentry, OPERATION_SYMLINK, 0);
}

static __always_inline int pair_change(void *ctx, u64 mount, u64 from, u64 mount2, u64 to,
				       u32 operation, u32 class, u32 class2)
{
	struct rote_task_stamp *stamp = task_stamp();
	struct rote_container *c;
	struct rote_scratch *s;

	if (!stamp)
		return 0;
	c = stamp_container(stamp);
	if (!c)
		return 0;
	s = change_begin(c, operation);
	if (!s)
		return 0;
	s->objects = 2;
	s->classes[0] = class;
	s->classes[1] = class2;
	s->place[0].dentry = from;
	s->place[0].mount = mount_of(mount);
	s->place[1].dentry = to;
	s->place[1].mount = mount_of(mount2);
	change_judge(ctx, s, c, stamp);
	return 0;
}

/* Both ends count: the old name goes, the new one is written. */
HOOK(path_rename, struct path *old_dir, struct dentry *old_dentry, struct path *new_dir,
     struct dentry *new_dentry)
{
	return pair_change(ctx, FIELD(struct path, old_dir, mnt), (u64)old_dentry,
			   FIELD(struct path, new_dir, mnt), (u64)new_dentry, OPERATION_RENAME,
			   OPERATION_CLASS_REMOVE, OPERATION_CLASS_RENAME);
}

/* Only the new name is judged: the old one stays as it is. */
HOOK(path_link, struct dentry *old_dentry, struct path *new_dir, struct dentry *new_dentry)
{
	u64 mount = FIELD(struct path, new_dir, mnt);

	return pair_change(ctx, mount, (u64)old_dentry, mount, (u64)new_dentry, OPERATION_LINK, 0,
			   OPERATION_CLASS_LINK);
}

HOOK(path_chmod, struct path *path, umode_t mode)
{
	return path_change(ctx, (u64)path, OPERATION_CHMOD, mode);
}

/* Takes its ids as structs: 5.10 cannot attach it (optional). */
HOOK(path_chown, struct path *path)
{
	return path_change(ctx, (u64)path, OPERATION_CHOWN, 0);
}

/* The first argument is the mount's id mapping, since 5.12. */
HOOK(inode_setxattr, void *mapping, struct dentry *dentry)
{
	return inode_change(ctx, (u64)dentry, OPERATION_SETXATTR);
}

HOOK(inode_removexattr, void *mapping, struct dentry *dentry)
{
	return inode_change(ctx, (u64)dentry, OPERATION_REMOVEXATTR);
}

/* mount(2) in all its forms, bind and remount included; not the new mount API. */
HOOK(sb_mount, const char *device, struct path *path, const char *type, unsigned long flags)
{
	return path_change(ctx, (u64)path, OPERATION_MOUNT, flags);
}

/* The new mount API attaches here. */
HOOK(move_mount, struct path *from, struct path *to)
{
	return path_change(ctx, (u64)to, OPERATION_MOUNT, 0);
}

HOOK(sb_umount, struct vfsmount *mount)
{
	struct rote_task_stamp *stamp = task_stamp();
	struct rote_container *c;
	struct rote_scratch *s;

	if (!stamp)
		return 0;
	c = stamp_container(stamp);
	if (!c)
		return 0;
	s = change_begin(c, OPERATION_UNMOUNT);
	if (!s)
		return 0;
	s->place[0].dentry = FIELD(struct vfsmount, mount, mnt_root);
	s->place[0].mount = mount_of((u64)mount);
	change_judge(ctx, s, c, stamp);
	return 0;
}

HOOK(sb_pivotroot, struct path *old_path, struct path *new_path)
{
	return path_change(ctx, (u64)new_path, OPERATION_PIVOT_ROOT, 0);
}
