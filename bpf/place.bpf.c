/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Directories that were walked before. What the walk from a directory to the root came to, and
 * where in the trie that is, is kept with the directory; only the last component is matched anew.
 *
 * It holds for as long as the kernel's own counters say that nothing moved: rename_lock is taken
 * for every change of a dentry's place, mount_lock for every change of a mount tree. Both were
 * read before the walk that is kept. Network file systems rename behind the kernel's back; their
 * directories are walked each time.
 */

#define EXT4_SUPER_MAGIC 0xef53
#define XFS_SUPER_MAGIC 0x58465342
#define BTRFS_SUPER_MAGIC 0x9123683e
#define PLACE_DEPTH_MAX 32 /* well below what walk() takes */

/* A sequence counter of the kernel's; odd while a change is under way. */
static __always_inline u32 sequence_of(u32 key)
{
	u64 address = config_value(key);
	u32 sequence = 1;

	/* What cannot be read counts as a change: nothing is remembered then. */
	if (address && bpf_probe_read_kernel(&sequence, sizeof(sequence), (void *)address))
		sequence = 1;
	return sequence;
}

static __always_inline int places_are_local(u64 magic)
{
	return magic == OVERLAYFS_SUPER_MAGIC || magic == TMPFS_MAGIC ||
	       magic == EXT4_SUPER_MAGIC || magic == XFS_SUPER_MAGIC || magic == BTRFS_SUPER_MAGIC;
}

/*
 * The directory of `dentry` into s->place_key, and what time it is into s->place_known. Returns 0
 * when it is not one that is remembered.
 */
static __always_inline int place_name(struct rote_scratch *s, struct rote_container *c, u64 dentry,
				      u64 vfsmount, u32 root)
{
	u64 parent = LOAD(struct dentry, dentry, d_parent);
	u64 inode = LOAD(struct dentry, parent, d_inode);
	u64 super = LOAD(struct inode, inode, i_sb);
	u64 magic = LOAD(struct super_block, super, s_magic);
	u64 upper = 0;

	if (parent == dentry || dentry == LOAD(struct vfsmount, vfsmount, mnt_root) || !inode ||
	    !places_are_local(magic))
		return 0;
	if (!c->root_dentry && !(c->flags & CONTAINER_FLAG_HOST_MOUNTS))
		return 0;
	s->place_known.renames = sequence_of(CONFIG_RENAME_LOCK);
	s->place_known.mounts = sequence_of(CONFIG_MOUNT_LOCK);
	s->place_known.trie = config_value(CONFIG_GENERATION);
	if ((s->place_known.renames | s->place_known.mounts) & 1)
		return 0;
	s->place_key.inode = LOAD(struct inode, inode, i_ino);
	s->place_key.address = inode;
	s->place_key.vfsmount = vfsmount;
	s->place_key.mount_namespace = current_mount_namespace();
	s->place_key.container = c->container;
	s->place_key.device = LOAD(struct super_block, super, s_dev);
	s->place_key.generation = LOAD(struct inode, inode, i_generation);
	s->place_key.root = root;
	if (magic == OVERLAYFS_SUPER_MAGIC) {
		/* An overlay's own inodes need not have a generation; the upper layer's have. */
		bpf_probe_read_kernel(&upper, sizeof(upper),
				      (void *)(s->place_key.address + sizeof(struct inode)));
		if (upper)
			s->place_key.generation +=
				FIELD(struct inode, dentry_inode(upper), i_generation);
	}
	return 1;
}

/*
 * Instead of a walk: s->node, s->node_flags and s->position as match_path() would have them in
 * front of the last component. Returns 0 when the walk has to be made.
 */
static __always_inline int place_recall(struct rote_scratch *s, struct rote_container *c,
					u64 dentry, u64 vfsmount, u32 root)
{
	struct rote_place_known *known;

	s->remember = place_name(s, c, dentry, vfsmount, root);
	if (!s->remember)
		return 0;
	known = places.lookup(&s->place_key);
	if (!known || known->renames != s->place_known.renames ||
	    known->mounts != s->place_known.mounts || known->trie != s->place_known.trie)
		return 0;
	s->remember = 0;
	s->node = known->node;
	s->node_flags = known->node_flags;
	s->position = known->left + 1;
	s->dentries[0] = dentry;
	s->depth = 1;
	return 1;
}

/* After a walk that ended at the container's root and was matched. */
static __always_inline void place_remember(struct rote_scratch *s)
{
	/* Scratch memory that another task took meanwhile must not be remembered for good. */
	if (scratch_kept(s) && s->remember && s->place_known.left != MATCH_NOT_DONE &&
	    s->depth <= PLACE_DEPTH_MAX)
		places.update(&s->place_key, &s->place_known);
	s->remember = 0;
}
