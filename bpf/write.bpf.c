/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Changes, seen at the kernel's security hooks: the attachments for kernels with trampolines.
 *
 * The hooks see every way to the object, io_uring and kernel threads acting for a task included,
 * with the dentry itself, before anything happened; what they return is what the caller gets.
 */

static __always_inline struct rote_container *stamp_container(struct rote_task_stamp *stamp)
{
	u64 id = stamp->container;

	return containers.lookup(&id);
}

/* One change that a hook judges: begun by change_begin(), ended by change_end(). */
struct rote_change {
	struct rote_task_stamp *stamp;
	struct rote_container *c;
	struct rote_scratch *s;
};

static __always_inline int change_find(struct rote_change *change)
{
	change->stamp = task_stamp();
	if (!change->stamp)
		return 0;
	change->c = stamp_container(change->stamp);
	return change->c != NULL;
}

/* Returns 0 when there is no scratch memory: change_failed() is the answer then. */
static __always_inline int change_begin(struct rote_change *change, u32 operation)
{
	change->s = scratch_take();
	if (!change->s)
		return 0;
	change->s->event.operation = operation;
	change->s->classes[0] = operation_class(operation);
	return 1;
}

static __always_inline int change_failed(struct rote_change *change)
{
	COUNT_ERROR(change->c->container, ERROR_SCRATCH);
	return refused_on_error(change->c) ? -EPERM : 0;
}

static __always_inline int change_end(struct rote_change *change)
{
	u32 refused = change->s->refused;

	scratch_give(change->s);
	return refused ? -EPERM : 0;
}

/*
 * A change of the entry `dentry` below the mount `vfsmount`; with `typed` both are pointers whose
 * type the verifier knows.
 */
static __always_inline int entry_change(void *ctx, u64 vfsmount, u64 dentry, u32 operation,
					u32 mode, const int typed)
{
	struct rote_place place = { .dentry = dentry, .vfsmount = vfsmount };
	struct rote_change change = {};

	if (!change_find(&change))
		return 0;
	if (!change_begin(&change, operation))
		return change_failed(&change);
	change.s->place[0].dentry = dentry;
	change.s->place[0].vfsmount = vfsmount;
	change.s->event.open_flags = mode;
	change_judge(ctx, change.s, change.c, change.stamp, 1, typed ? &place : NULL, 0);
	return change_end(&change);
}

static __always_inline int name_change(void *ctx, u64 dir, u64 dentry, u32 operation, u32 mode)
{
	return entry_change(ctx, LOAD(struct path, dir, mnt), dentry, operation, mode, 1);
}

/* A change of the object `path`. */
static __always_inline int path_change(void *ctx, u64 path, u32 operation, u32 mode)
{
	return entry_change(ctx, LOAD(struct path, path, mnt), LOAD(struct path, path, dentry),
			    operation, mode, 1);
}

/* A change of an inode where the hook is told no mount: the container's root mount is assumed. */
static __always_inline int inode_change(void *ctx, u64 dentry, u32 operation)
{
	struct rote_change change = {};

	if (!change_find(&change) || LOAD(struct dentry, dentry, d_sb) != change.c->root_super)
		return 0;
	return entry_change(ctx, change.c->root_mount + __builtin_offsetof(struct mount, mnt),
			    dentry, operation, 0, 0);
}

static __always_inline int file_change(void *ctx, u64 file, u32 operation, u32 flags, int again,
				       const int may_be_code)
{
	struct rote_place place;
	struct rote_change change = {};

	if (!change_find(&change) || !file || !file_is_object(file, operation) ||
	    (!again && file_is_judged(change.c, file)))
		return 0;
	if (!change_begin(&change, operation))
		return change_failed(&change);
	change.s->event.open_flags = flags;
	place.dentry = LOAD(struct file, file, f_path.dentry);
	place.vfsmount = LOAD(struct file, file, f_path.mnt);
	change.s->place[0] = place;
	/* From here on by what is in memory: what is alike need not be verified twice. */
	FORGET();
	if (change_judge(ctx, change.s, change.c, change.stamp, 1, &place, may_be_code) &&
	    change.s->event.operation != OPERATION_MAP_EXEC && !change.s->refused)
		file_note_judged(change.s, change.c, file);
	return change_end(&change);
}

/*
 * When an open that creates comes to file_open, the file is there already. So under prevention it
 * is path_mknod that judges it, just before; a file without a name does not come that way.
 */
static __always_inline int open_change(void *ctx, u64 file, u32 operation, u32 flags)
{
	struct rote_place place;
	struct rote_change change = {};

	if (!change_find(&change) || !file_is_object(file, operation))
		return 0;
	if (operation == OPERATION_CREATE && !(flags & O_TMPFILE_BIT) && is_prevented(change.c))
		return 0;
	if (!change_begin(&change, operation))
		return change_failed(&change);
	change.s->event.open_flags = flags;
	place.dentry = LOAD(struct file, file, f_path.dentry);
	place.vfsmount = LOAD(struct file, file, f_path.mnt);
	change.s->place[0] = place;
	if (change_judge(ctx, change.s, change.c, change.stamp, 1, &place, 0) && !change.s->refused)
		file_note_judged(change.s, change.c, file);
	return change_end(&change);
}

/* file_open, since 2.6: every open that will succeed. O_TRUNC and O_CREAT are still visible. */
HOOK(file_open, struct file *file)
{
	u32 mode = LOAD(struct file, (u64)file, f_mode);
	u32 flags = LOAD(struct file, (u64)file, f_flags);

	if (!(mode & (FMODE_WRITE | FMODE_CREATED)) && !(flags & O_TRUNC))
		return 0;
	return open_change(ctx, (u64)file,
			   mode & FMODE_CREATED ? OPERATION_CREATE : OPERATION_OPEN_WRITE, flags);
}

/*
 * file_permission, since 2.6: every write through a descriptor (vfs_write, writev, sendfile,
 * splice, copy_file_range, io_uring). Only files that were not judged at their open count here.
 */
HOOK(file_permission, struct file *file, int mask)
{
	if (!(mask & MAY_WRITE) || !task_stamp() || !config_value(CONFIG_WRITE_PROBE))
		return 0;
	return file_change(ctx, (u64)file, OPERATION_WRITE, 0, 0, 0);
}

/*
 * mmap_file, since 2.6: code by another way than exec (ld.so, LD_PRELOAD, dlopen, a loader in user
 * space); and a shared writable mapping, which writes without another call.
 */
#if ATTACH == ATTACH_LSM
HOOK(mmap_file, struct file *file, unsigned long requested, unsigned long protection,
     unsigned long flags)
#else
HOOK(mmap_file, struct file *file, unsigned long protection, unsigned long flags)
#endif
{
	u64 type = flags & MAP_TYPE;
	u32 is_code = 0;

	if (!file || !task_stamp())
		return 0;
	protection = mapped_protection(protection);
	if (protection & PROT_EXEC)
		is_code = !file_is_own_program((u64)file);
	if (!is_code &&
	    (!(protection & PROT_WRITE) || (type != MAP_SHARED && type != MAP_SHARED_VALIDATE)))
		return 0;
	return file_change(ctx, (u64)file, is_code ? OPERATION_MAP_EXEC : OPERATION_MAP_WRITE,
			   protection, is_code, 1);
}

/*
 * A mapping on overlayfs holds the layer's file. Before 6.6 that goes by the container's own path;
 * since 6.8 the path that the user opened stands right behind struct file (struct backing_file). The
 * bit that says so moved, so what stands there has to be a path on an overlay as well.
 */
static __always_inline void place_mapped_file(struct rote_place *place, u64 file)
{
	struct rote_place opened;
	u64 super;

	place_file(place, file);
	if (FIELD(struct mount, mount_of(place->vfsmount), mnt_ns) < ERROR_POINTER ||
	    !(FIELD(struct file, file, f_mode) & FMODE_BACKING))
		return;
	place_path(&opened, file + sizeof(struct file));
	super = FIELD(struct dentry, opened.dentry, d_sb);
	if (super && super == FIELD(struct vfsmount, opened.vfsmount, mnt_sb) &&
	    FIELD(struct super_block, super, s_magic) == OVERLAYFS_SUPER_MAGIC)
		*place = opened;
}

/* file_mprotect, since 2.6: a mapping gets rights that it was not made with. */
HOOK(file_mprotect, struct vm_area_struct *vma, unsigned long requested, unsigned long protection)
{
	u64 file = LOAD(struct vm_area_struct, (u64)vma, vm_file);
	struct rote_change change = {};
	u32 operation = OPERATION_MAP_EXEC;

	if (!(protection & (PROT_EXEC | PROT_WRITE)) || !file || !change_find(&change))
		return 0;
	if (!(protection & PROT_EXEC) || file_is_own_program(file)) {
		if (!(protection & PROT_WRITE) ||
		    !(LOAD(struct vm_area_struct, (u64)vma, vm_flags) & VM_SHARED))
			return 0;
		operation = OPERATION_MAP_WRITE;
	}
	if (!file_is_regular(file))
		return 0;
	if (!change_begin(&change, operation))
		return change_failed(&change);
	change.s->event.open_flags = protection;
	place_mapped_file(&change.s->place[0], file);
	change_judge(ctx, change.s, change.c, change.stamp, 1, NULL, 1);
	return change_end(&change);
}

/* path_truncate, since 2.6: truncate(2); before 6.2 ftruncate and O_TRUNC as well. */
HOOK(path_truncate, struct path *path)
{
	return path_change(ctx, (u64)path, OPERATION_TRUNCATE, 0);
}

/* file_truncate, since 6.2: ftruncate and O_TRUNC; the open was judged. */
HOOK(file_truncate, struct file *file)
{
	return file_change(ctx, (u64)file, OPERATION_TRUNCATE, 0, 0, 0);
}

/* path_* below, since 2.6.29 with CONFIG_SECURITY_PATH (not on RHEL). */
HOOK(path_unlink, struct path *dir, struct dentry *dentry)
{
	return name_change(ctx, (u64)dir, (u64)dentry, OPERATION_UNLINK, 0);
}

HOOK(path_rmdir, struct path *dir, struct dentry *dentry)
{
	return name_change(ctx, (u64)dir, (u64)dentry, OPERATION_RMDIR, 0);
}

HOOK(path_mkdir, struct path *dir, struct dentry *dentry, umode_t mode)
{
	return name_change(ctx, (u64)dir, (u64)dentry, OPERATION_MKDIR, mode);
}

/*
 * A regular file comes into being, by open or by mknod(2). Where nothing is refused the open that
 * follows reports it, and only mknod is reported here.
 */
static __always_inline int creation_is_judged(void)
{
	struct rote_change change = {};
	u64 number;

	if (!change_find(&change))
		return 0;
	if (is_prevented(change.c))
		return 1;
	number = current_system_call();
	return number == SYSCALL_MKNOD || number == SYSCALL_MKNODAT;
}

HOOK(path_mknod, struct path *dir, struct dentry *dentry, umode_t mode, unsigned int device)
{
	u32 operation = OPERATION_MKNOD;

	if (!(mode & S_IFMT) || (mode & S_IFMT) == S_IFREG) {
		if (!creation_is_judged())
			return 0;
		operation = OPERATION_CREATE;
	}
	return name_change(ctx, (u64)dir, (u64)dentry, operation, mode);
}

HOOK(path_symlink, struct path *dir, struct dentry *dentry, const char *target)
{
	return name_change(ctx, (u64)dir, (u64)dentry, OPERATION_SYMLINK, 0);
}

static __always_inline int pair_change(void *ctx, u64 mount, u64 from, u64 mount2, u64 to,
				       u32 operation, u32 class, u32 class2)
{
	struct rote_place places[2] = { { from, mount }, { to, mount2 } };
	struct rote_change change = {};

	if (!change_find(&change))
		return 0;
	if (!change_begin(&change, operation))
		return change_failed(&change);
	change.s->objects = 2;
	change.s->classes[0] = class;
	change.s->classes[1] = class2;
	change.s->place[0] = places[0];
	change.s->place[1] = places[1];
	change_judge(ctx, change.s, change.c, change.stamp, 2, places, 0);
	return change_end(&change);
}

/* Both ends count: the old name goes, the new one is written. */
HOOK(path_rename, struct path *old_dir, struct dentry *old_dentry, struct path *new_dir,
     struct dentry *new_dentry)
{
	return pair_change(ctx, LOAD(struct path, (u64)old_dir, mnt), (u64)old_dentry,
			   LOAD(struct path, (u64)new_dir, mnt), (u64)new_dentry, OPERATION_RENAME,
			   OPERATION_CLASS_REMOVE, OPERATION_CLASS_RENAME);
}

/* Both ends count here as well: through the new name the old object can be changed. */
HOOK(path_link, struct dentry *old_dentry, struct path *new_dir, struct dentry *new_dentry)
{
	u64 mount = LOAD(struct path, (u64)new_dir, mnt);

	return pair_change(ctx, mount, (u64)old_dentry, mount, (u64)new_dentry, OPERATION_LINK,
			   OPERATION_CLASS_LINK, OPERATION_CLASS_LINK);
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

/* inode_file_setattr, since 6.17: file_setattr(2) sets what chattr(1) sets, by name. */
HOOK(inode_file_setattr, struct dentry *dentry)
{
	return inode_change(ctx, (u64)dentry, OPERATION_CHMOD);
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
	return entry_change(ctx, (u64)mount, LOAD(struct vfsmount, (u64)mount, mnt_root),
			    OPERATION_UNMOUNT, 0, 0);
}

HOOK(sb_pivotroot, struct path *old_path, struct path *new_path)
{
	return path_change(ctx, (u64)new_path, OPERATION_PIVOT_ROOT, 0);
}
