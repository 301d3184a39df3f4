/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What object is it: scratch memory, the walk from a dentry to its root, the origin of content.
 */

/* Constants that BTF does not carry, from the kernel's own headers. */
#define S_IFMT 00170000
#define S_IFREG 0100000
#define S_IFCHR 0020000
#define S_IFDIR 0040000
#define S_IFBLK 0060000
#define S_ISUID 0004000
#define S_ISGID 0002000
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#define TMPFS_MAGIC 0x01021994
#define RAMFS_MAGIC 0x858458f6
#define SB_KERNMOUNT (1 << 22)
#define FMODE_WRITE 0x2
#define FMODE_CREATED 0x100000
#define FMODE_BACKING 0x3000000 /* 1 << 25, since 6.12 1 << 24 */
#define O_WRONLY 00000001
#define O_RDWR 00000002
#define O_CREAT 00000100
#define O_TRUNC 00001000
#define O_TMPFILE_BIT 020000000
#define O_ACCMODE 00000003
#define PROT_WRITE 0x2
#define PROT_EXEC 0x4
#define PROT_READ 0x1
#define READ_IMPLIES_EXEC 0x0400000
#define MAP_SHARED 0x01
#define MAP_SHARED_VALIDATE 0x03
#define VM_SHARED 0x8
#define MAP_TYPE 0x0f
#define MAY_WRITE 0x2
#define AT_FDCWD -100
#define ERROR_POINTER ((u64) - 4095)

#define DEPTH_MAX 64
#define WALK_STEPS 76 /* components and the mounts between them */
#define TEXT_MASK 0x3fff
#define TEXT_SLACK 4096 /* one string beyond the mask never leaves the buffer */
#define TEXT_PATH_MAX 4096
#define TEXT_SHORT_MAX 1024
#define ARGV_MAX 2048
#define NEW_ARGUMENTS_MAX 32
#define TOLD_MAX 256 /* refusals of one container that are told in one second */
#define THREAD_SIZE 16384 /* x86-64 without KASAN; used for evidence only */
#define SYSCALL_EXECVE 59
#define SYSCALL_EXECVEAT 322
#define SYSCALL_MKNOD 133
#define SYSCALL_MKNODAT 259
#define NAME_SIZE 256
#define SEGMENT_WALKS 5 /* TEXT_PATH to TEXT_CWD */

/*
 * Hide from clang what it knows of a value, so that it keeps a bound that the verifier needs.
 */
#define OPAQUE(value) asm volatile("" : "+r"(value))

/*
 * At the start of a loop's body: makes clang fetch the loop's variables from the scratch memory
 * again, where the verifier has forgotten their ranges. In registers each pass would look new.
 */
#define FORGET() asm volatile("" ::: "memory")

struct rote_place {
	u64 dentry;
	u64 vfsmount;
};

/*
 * Working memory of one run, too large for the stack. The verifier must not track loop variables
 * (it would try each value on each path), so they live here too.
 */
struct rote_scratch {
	struct rote_event event; /* first: event and text go out as one record */
	char text[TEXT_MASK + 1 + TEXT_SLACK];
	u64 owner; /* pid_tgid of the run that uses this memory; 0: nobody */
	u64 dentries[DEPTH_MAX];
	u64 top_mount; /* the mount at the root of the walk */
	u64 at_dentry; /* of walk() */
	u64 at_mount; /* struct mount */
	u32 depth;
	u32 top_depth; /* s->depth when top_mount was reached */
	u32 walk_end;
	u32 offset; /* in text */
	u32 position; /* of a loop */
	u32 segment; /* of text_append_places() */
	u32 segment_state;
	u32 segment_start;
	u32 cut;
	struct rote_place place[SEGMENT_WALKS];
	struct rote_place_key place_key;
	struct rote_place_known place_known; /* a walk that is to be remembered */
	u32 remember;
	u32 recalled; /* 1: instead of a walk */
	struct rote_edge_key key;
	struct rote_edge_key class_key;
	/* match_path() and component_canonical() */
	u32 node;
	u32 node_flags;
	u32 state;
	u32 in;
	u32 out;
	u32 token_start;
	u32 token_length;
	u32 token_changes;
	u32 token_kinds;
	u32 token_previous;
	u32 token_not_hex;
	u32 token_first;
	u32 token_letters;
	u32 is_volatile;
	/* a change that is judged */
	u32 objects; /* 1 or 2 */
	u32 known;
	u32 refused;
	u32 classes[2];
	u32 by_name;
	u64 names[2]; /* addresses */
	u32 names_in_kernel;
	u64 argument[6];
	u64 argv_start; /* of an execution that is complete but for its stack; 0: see the mm */
	u64 argv_end;
	u32 applet_length; /* of the name in s->key; 0: no multi-call program */
	u32 starting; /* whether the container's service starts up */
	u32 startup_only; /* the execution is one of the start-up; 2: which is over */
	u32 unknown_shape; /* it is known with other arguments */
	u64 shape_argument; /* behind it the arguments begin that matter */
	u32 class_length; /* of the name in s->class_key */
	u32 unreadable; /* an argument could not be read */
	u32 dot; /* where in the name in s->key the extension begins */
	u64 file; /* that a system call acted on */
	struct rote_name_key name;
	struct rote_probe_key probe;
	struct rote_container_id id;
	char canonical[2 * NAME_SIZE];
	u64 zero[NAME_SIZE / 8]; /* never written */
};

/*
 * Kernels that preempt BPF programs let another task come in the middle of one: it takes the next
 * piece. More than this at once are an error that is counted.
 */
#define SCRATCH_PIECES 4
BPF_PERCPU_ARRAY(scratches, struct rote_scratch, SCRATCH_PIECES);

/*
 * A piece of this processor's scratch memory that nobody uses, to be given back with
 * scratch_give(). Between look and take another task may come in; scratch_kept() finds that out
 * before anything is said or decided.
 */
static __always_inline struct rote_scratch *scratch_take(void)
{
	struct rote_scratch *s = NULL;

	for (int i = 0; i < SCRATCH_PIECES; i++) {
		int piece = i;

		s = scratches.lookup(&piece);
		if (!s)
			return NULL;
		if (!s->owner)
			break;
		s = NULL;
	}
	if (!s)
		return NULL;
	s->owner = bpf_get_current_pid_tgid();
	s->known = 0;
	s->refused = 0;
	s->objects = 0;
	s->by_name = 0;
	s->names_in_kernel = 0;
	s->remember = 0;
	s->offset = 0;
	s->event.flags = 0;
	s->event.open_flags = 0;
	s->event.walk_end = WALK_END_NONE;
	s->event.walk_end2 = WALK_END_NONE;
	s->event.origin = ORIGIN_UNKNOWN;
	s->event.base_device = 0;
	s->event.base_inode = 0;
	s->event.error = 0;
	s->event.detection = DETECTION_NONE;
	s->argv_start = 0;
	s->applet_length = 0;
	s->startup_only = 0;
	s->unknown_shape = 0;
	s->place[TEXT_PATH].dentry = 0;
	s->place[TEXT_PATH2].dentry = 0;
	s->place[TEXT_PROGRAM].dentry = 0;
	s->place[TEXT_PARENT].dentry = 0;
	s->place[TEXT_CWD].dentry = 0;
	s->names[0] = 0;
	s->names[1] = 0;
	return s;
}

static __always_inline int scratch_kept(struct rote_scratch *s)
{
	return s->owner == bpf_get_current_pid_tgid();
}

static __always_inline void scratch_give(struct rote_scratch *s)
{
	s->owner = 0;
}

static __always_inline u64 config_value(u32 key)
{
	u64 *value = settings.lookup(&key);

	return value ? *value : 0;
}

static __always_inline u64 mount_of(u64 vfsmount)
{
	return vfsmount - __builtin_offsetof(struct mount, mnt);
}

static __always_inline void place_path(struct rote_place *place, u64 path)
{
	place->dentry = FIELD(struct path, path, dentry);
	place->vfsmount = FIELD(struct path, path, mnt);
}

static __always_inline void place_file(struct rote_place *place, u64 file)
{
	place_path(place, file + __builtin_offsetof(struct file, f_path));
}

static __always_inline void walk_begin(struct rote_scratch *s, u64 dentry, u64 vfsmount)
{
	s->depth = 0;
	s->top_mount = 0;
	s->walk_end = WALK_END_TOO_DEEP;
	s->top_depth = DEPTH_MAX + 1;
	s->at_dentry = dentry;
	s->at_mount = mount_of(vfsmount);
}

/* One step up. Returns 1 when the walk has ended. */
static __always_inline int walk_step(struct rote_scratch *s)
{
	u64 parent, above;
	u32 depth;

	if (s->at_dentry == FIELD(struct mount, s->at_mount, mnt.mnt_root)) {
		above = FIELD(struct mount, s->at_mount, mnt_parent);
		/*
		 * The root that tasks see is mounted over the namespace's first mount, so of
		 * several mounts without a name between them the first one counts.
		 */
		if (s->top_depth != s->depth) {
			s->top_depth = s->depth;
			s->top_mount = s->at_mount;
		}
		if (above == s->at_mount || !above) {
			s->walk_end = WALK_END_ROOT;
			return 1;
		}
		s->at_dentry = FIELD(struct mount, s->at_mount, mnt_mountpoint);
		s->at_mount = above;
		return 0;
	}
	parent = FIELD(struct dentry, s->at_dentry, d_parent);
	if (parent == s->at_dentry || !parent) {
		s->walk_end = WALK_END_PSEUDO;
		return 1;
	}
	depth = s->depth;
	if (depth >= DEPTH_MAX)
		return 1;
	s->dentries[depth & (DEPTH_MAX - 1)] = s->at_dentry;
	s->depth = depth + 1;
	s->at_dentry = parent;
	return 0;
}

/*
 * Collect the dentries from `dentry` up to the root of its mount tree in s->dentries, leaf first,
 * and say in s->walk_end how that ended.
 */
static __always_inline void walk(struct rote_scratch *s, u64 dentry, u64 vfsmount)
{
	walk_begin(s, dentry, vfsmount);
	for (int i = 0; i < WALK_STEPS; i++) {
		FORGET();
		if (walk_step(s))
			break;
	}
}

static __always_inline u64 task_mount_namespace(u64 task)
{
	return FIELD(struct nsproxy, FIELD(struct task_struct, task, nsproxy), mnt_ns);
}

static __always_inline u64 current_mount_namespace(void)
{
	u64 task = CURRENT_TASK();

	return LOAD(struct nsproxy, LOAD(struct task_struct, task, nsproxy), mnt_ns);
}

/* After walk(): whose root it was that the walk reached. */
static __always_inline u32 walk_judge_end(struct rote_scratch *s, struct rote_container *c)
{
	u64 namespace;

	if (s->walk_end != WALK_END_ROOT)
		return s->walk_end;
	namespace = FIELD(struct mount, s->top_mount, mnt_ns);
	if (!namespace)
		return WALK_END_DETACHED;
	if (namespace >= ERROR_POINTER)
		return WALK_END_INTERNAL;
	if (namespace != current_mount_namespace())
		return WALK_END_OTHER_NAMESPACE;
	/* unshare(CLONE_NEWNS) copies the mounts but keeps the root's dentry; pivot_root does not. */
	if (!(c->flags & CONTAINER_FLAG_HOST_MOUNTS) && c->root_dentry &&
	    c->root_dentry != FIELD(struct mount, s->top_mount, mnt.mnt_root))
		return WALK_END_OTHER_NAMESPACE;
	return WALK_END_ROOT;
}

static __always_inline u64 dentry_inode(u64 dentry)
{
	return FIELD(struct dentry, dentry, d_inode);
}

/*
 * Where the content of an inode comes from. On overlayfs the upper dentry stands right behind the
 * inode in struct ovl_inode (5.10 to 7.2); it is not in every kernel's BTF, so it is addressed
 * by that.
 */
static __always_inline u32 inode_origin(struct rote_container *c, u64 inode, const int known)
{
	u64 super = GET(known, struct inode, inode, i_sb);
	u64 magic = GET(known, struct super_block, super, s_magic);
	u64 upper = 0;

	if (!(u32)GET(known, struct inode, inode, i_nlink))
		return ORIGIN_MEMORY;
	if (magic == TMPFS_MAGIC || magic == RAMFS_MAGIC) {
		if (GET(known, struct super_block, super, s_flags) & SB_KERNMOUNT)
			return ORIGIN_MEMORY;
		return super == c->root_super ? ORIGIN_UNKNOWN : ORIGIN_TMPFS;
	}
	if (c->flags & CONTAINER_FLAG_HOST_MOUNTS)
		return ORIGIN_UNKNOWN;
	if (super != c->root_super)
		return ORIGIN_MOUNT;
	if (magic != OVERLAYFS_SUPER_MAGIC)
		return ORIGIN_UNKNOWN;
	bpf_probe_read_kernel(&upper, sizeof(upper), (void *)(inode + sizeof(struct inode)));
	return upper ? ORIGIN_ADDED : ORIGIN_IMAGE;
}

/*
 * Character devices that take writes without keeping them: null, zero, full, random, urandom,
 * terminals. They are not objects of a model.
 */
static __always_inline int inode_is_sink(u64 inode)
{
	u32 mode = LOAD(struct inode, inode, i_mode);
	u32 device, major, minor;

	if ((mode & S_IFMT) != S_IFCHR)
		return 0;
	device = LOAD(struct inode, inode, i_rdev);
	major = device >> 20;
	minor = device & 0xfffff;
	return (major == 1 && minor >= 3 && minor <= 9) || major == 5 ||
	       (major >= 136 && major <= 143);
}
