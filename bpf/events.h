/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Every struct and enum that the kernel side and the user side share; nothing else.
 *
 * sensor/kernel/layout.py reads this text and builds the Python side from it, so it keeps to a
 * strict subset of C: u8 to u64, s32, arrays of char, enums with plain numbers, no bit-fields,
 * no pointers, explicit padding. The _Static_asserts at the end are the hinge: BCC's clang, the
 * host's cc and layout.py must agree on every size.
 *
 * pid means the process as user space says it (the kernel's tgid); tid is the thread.
 */
#ifndef ROTE_EVENTS_H
#define ROTE_EVENTS_H

enum rote_event_kind {
	EVENT_EXEC = 1,
	EVENT_FILE = 2,
	EVENT_CGROUP_CREATED = 3,
	EVENT_CGROUP_REMOVED = 4,
};

enum rote_operation {
	OPERATION_EXEC = 1,
	OPERATION_SCRIPT = 2,
	OPERATION_MAP_EXEC = 3,
	OPERATION_OPEN_WRITE = 10,
	OPERATION_CREATE = 11,
	OPERATION_TRUNCATE = 12,
	OPERATION_WRITE = 13,
	OPERATION_MAP_WRITE = 14,
	OPERATION_UNLINK = 20,
	OPERATION_RMDIR = 21,
	OPERATION_RENAME = 30,
	OPERATION_LINK = 40,
	OPERATION_SYMLINK = 41,
	OPERATION_MKDIR = 50,
	OPERATION_MKNOD = 51,
	OPERATION_CHMOD = 60,
	OPERATION_CHOWN = 61,
	OPERATION_SETXATTR = 62,
	OPERATION_REMOVEXATTR = 63,
	OPERATION_MOUNT = 70,
	OPERATION_UNMOUNT = 71,
	OPERATION_PIVOT_ROOT = 72,
	OPERATION_TRACE = 80,
	OPERATION_LOAD_CODE = 81,
	OPERATION_RECEIVE = 82,
};

enum rote_operation_class {
	OPERATION_CLASS_WRITE = 1,
	OPERATION_CLASS_REMOVE = 2,
	OPERATION_CLASS_RENAME = 4,
	OPERATION_CLASS_LINK = 8,
	OPERATION_CLASS_MKDIR = 16,
	OPERATION_CLASS_MKNOD = 32,
	OPERATION_CLASS_ATTRIBUTES = 64,
	OPERATION_CLASS_MOUNT = 128,
	OPERATION_CLASS_TRACE = 256,
	OPERATION_CLASS_LOAD_CODE = 512,
};

/* Beside the classes, of rules only: what matches may be executed; it may, and is told. */
enum rote_rule_class {
	RULE_CLASS_EXEC = 1024,
	RULE_CLASS_EXEC_REPORT = 2048,
	RULE_CLASS_EXEC_ADDED = 4096, /* with either: also what was written at run time */
};

/*
 * What kind of deviation a novelty is; a rule has an action for each. Bits of container.prevent
 * and container.ignored. The same choice is made by sensor/rules/detection.py.
 */
enum rote_detection {
	DETECTION_NONE = 0,
	DETECTION_UNKNOWN_PROGRAM = 1,
	DETECTION_UNKNOWN_PARENT = 2,
	DETECTION_CHANGED_PROGRAM = 3,
	DETECTION_MEMORY_PROGRAM = 4,
	DETECTION_SETUID_PROGRAM = 5,
	DETECTION_DENIED_PROGRAM = 6,
	DETECTION_EXEC_SESSION = 7,
	DETECTION_UNKNOWN_WRITE = 8,
	DETECTION_PROTECTED_WRITE = 9,
	DETECTION_DENIED_PATH = 10,
	DETECTION_STARTUP_PROGRAM = 11,
	DETECTION_UNKNOWN_ARGUMENTS = 12,
};

enum rote_origin {
	ORIGIN_UNKNOWN = 0,
	ORIGIN_IMAGE = 1,
	ORIGIN_ADDED = 2,
	ORIGIN_MOUNT = 3,
	ORIGIN_TMPFS = 4,
	ORIGIN_MEMORY = 5,
};

enum rote_actor {
	ACTOR_SERVICE = 1,
	ACTOR_SESSION = 2,
	ACTOR_PROBE = 3,
};

enum rote_walk_end {
	WALK_END_NONE = 0,
	WALK_END_ROOT = 1,
	WALK_END_OTHER_NAMESPACE = 2,
	WALK_END_DETACHED = 3,
	WALK_END_INTERNAL = 4,
	WALK_END_PSEUDO = 5,
	WALK_END_TOO_DEEP = 6,
	WALK_END_BY_NAME = 7,
};

enum rote_event_flag {
	EVENT_FLAG_PATH_TRUNCATED = 1,
	EVENT_FLAG_PATH2_TRUNCATED = 2,
	EVENT_FLAG_ARGV_TRUNCATED = 4,
	EVENT_FLAG_PROGRAM_TRUNCATED = 8,
	EVENT_FLAG_DELETED = 16,
	EVENT_FLAG_SETUID = 32,
	EVENT_FLAG_TTY = 64,
	EVENT_FLAG_DIRECTORY = 128,
	EVENT_FLAG_PENDING = 256,
	EVENT_FLAG_KILLED = 512, /* the acting process got SIGKILL */
	EVENT_FLAG_BEFORE = 1024, /* EXEC: not complete; TEXT_PROGRAM is the caller's program */
	EVENT_FLAG_ON_ERROR = 2048, /* refused although known; set by user space, as are the next */
	EVENT_FLAG_LEFTOVER = 4096,
	EVENT_FLAG_MAPPED = 8192,
	EVENT_FLAG_REPORTED = 16384, /* EXEC: known, told because a rule looks at its arguments */
	EVENT_FLAG_STARTUP = 32768, /* EXEC: while the container's service was starting up */
	EVENT_FLAG_SHIPPED = 65536, /* FILE: one of the objects came with the image */
};

enum rote_label_kind {
	LABEL_KIND_EXACT = 0,
	LABEL_KIND_CLASS = 1,
	LABEL_KIND_ANY = 2,
	LABEL_KIND_APPLET = 3,
	LABEL_KIND_NAME = 4, /* from a model's root: a program's name, wherever it lies */
	/* Of last components only, beside what the others say: */
	LABEL_KIND_TEMPORARY = 5, /* the label and six letters or digits, as mkstemp makes names */
	LABEL_KIND_EXTENSION = 6, /* any name with this extension */
	LABEL_KIND_DATA = 7, /* any name without an extension */
	LABEL_KIND_TEMPORARY_LONG = 9, /* the label and eight of a to z, 0 to 9, _ */
	/* Not a component: how an interpreter is called, see shape_node(). */
	LABEL_KIND_SHAPE = 8,
};

enum rote_node_flag {
	NODE_FLAG_HAS_CLASS = 1,
	NODE_FLAG_HAS_ANY = 2,
	NODE_FLAG_MULTICALL = 4,
	NODE_FLAG_SUBTREE = 8,
	NODE_FLAG_HAS_LAST = 16, /* an edge of a kind for last components */
};

enum rote_container_flag {
	CONTAINER_FLAG_HOST_MOUNTS = 1,
	CONTAINER_FLAG_NO_SESSIONS = 2,
	CONTAINER_FLAG_WATCHED = 4,
	CONTAINER_FLAG_ALIAS = 8,
	CONTAINER_FLAG_ERROR_ALLOW = 32, /* what cannot be judged is allowed, whatever is refused */
	CONTAINER_FLAG_RULES = 64, /* its model has entries of rules about programs */
	CONTAINER_FLAG_SESSIONS =
		128, /* sessions may do anything for now; it is told all the same */
};

/* How the tracepoint attachment reads one system call. */
enum rote_syscall_shape {
	SYSCALL_SHAPE_NONE = 0,
	SYSCALL_SHAPE_OPEN = 1, /* returns a descriptor; flags_arg: O_* flags, or none */
	SYSCALL_SHAPE_FD = 2, /* acts on the descriptor in fd_arg */
	SYSCALL_SHAPE_NAME = 3, /* acts on (fd_arg, name_arg) */
	SYSCALL_SHAPE_NAMES = 4, /* acts on (fd_arg, name_arg) and (fd2_arg, name2_arg) */
	SYSCALL_SHAPE_MAP = 5, /* mmap: fd_arg; protection in name_arg, MAP_* in flags_arg */
	SYSCALL_SHAPE_BIND = 6, /* bind: a unix socket's name is created */
};

/* Node numbers with a meaning of their own; see bpf/match.bpf.c. */
enum rote_node {
	NODE_NONE = 0,
	NODE_PROGRAMS = 1, /* root of the trie of program paths */
	NODE_RUNTIME = 2, /* "program": the container runtime, outside the container */
	NODE_ANY = 3, /* "program": whichever acts */
	NODE_FIRST = 16, /* the first number for a path */
	NODE_PROTECTED = 4, /* "program": no grant, but the mark of a protected place */
	NODE_MODEL_ROOT = 1073741824, /* + model number: root of that model's written paths */
	NODE_DENIED = 2147483648, /* | program: no grant, but the mark of a rule that denies */
};

enum rote_text_segment {
	TEXT_PATH = 0, /* BY_NAME: the directory that the name is relative to */
	TEXT_PATH2 = 1,
	TEXT_PROGRAM = 2, /* the program of the acting process, after an exec the new one */
	TEXT_PARENT = 3, /* the program of its parent process */
	TEXT_CWD = 4,
	TEXT_NAME = 5, /* BY_NAME: the name as the caller gave it */
	TEXT_NAME2 = 6,
	TEXT_ARGV = 7, /* NUL separated */
	TEXT_SEGMENTS = 8,
};

/* Why something could not be done; indexes of counters.errors. */
enum rote_error_cause {
	ERROR_SCRATCH = 0, /* another task used this processor's scratch memory meanwhile */
	ERROR_TASK_MAP = 1, /* no room for the stamp of a task */
	ERROR_CONTAINER_MAP = 2, /* no room for a container */
	ERROR_READ = 3, /* kernel or user memory could not be read */
	ERROR_UNRESOLVED = 4, /* the program of a process under PREVENT had no number */
	ERROR_CAUSES = 5,
};

enum rote_config_key {
	CONFIG_DISCOVER = 0, /* 1: containers are recognised by the names of their cgroups */
	CONFIG_HOST_MOUNTS = 1, /* inode number of the host's mount namespace */
	CONFIG_SELF_PID = 2,
	CONFIG_WRITE_PROBE = 3, /* 1: writes through descriptors opened elsewhere are judged */
	CONFIG_RENAME_LOCK = 4, /* address of the kernel's rename_lock; 0: places are not cached */
	CONFIG_MOUNT_LOCK = 5,
	CONFIG_GENERATION = 6, /* changes with the path trie */
	CONFIG_STARTUP = 7, /* ns without a new execution that end start-up; 0: it never ends */
	CONFIG_KEYS = 8,
};

/* Settings of the lock (bpf/lock.bpf.c). */
enum rote_lock_key {
	LOCK_DAEMON_PID = 0,
	LOCK_SCRIPT_INODE = 1, /* of `rote`, whose execution makes a keeper */
	LOCK_SCRIPT_DEVICE = 2,
	LOCK_PINS = 3, /* inode of the directory of pins */
	LOCK_BPFFS = 4, /* device of its file system */
};

/* Marks a program among the numbers of maps and programs. */
enum rote_object_flag {
	OWN_PROGRAM = 2147483648,
};

struct rote_event_header {
	u32 kind;
	u32 size; /* of the whole record, text included */
	u64 ktime_ns; /* CLOCK_MONOTONIC */
	u64 cgroup_id; /* of the container's own cgroup */
};

struct rote_event {
	struct rote_event_header header;
	u64 base_device; /* BY_NAME: of the directory the name is relative to */
	u64 base_inode;
	u64 base2_device;
	u64 base2_inode;
	u64 exec_id; /* of the acting program's execution; EXEC: of the new one */
	u64 caller_exec_id; /* EXEC: of the caller's own execution */
	u32 pid;
	u32 tid;
	u32 parent_pid;
	u32 uid;
	u32 gid;
	u32 model;
	u32 operation;
	u32 actor;
	u32 origin;
	u32 walk_end;
	u32 walk_end2;
	u32 flags;
	u32 open_flags;
	u32 program_node; /* EXEC: of the caller; FILE: of the acting program; 0 unknown */
	s32 error;
	u32 detection;
	u32 text_end[8]; /* where each segment ends, counted from the end of this struct */
};

/* A process of a container; key of the map: pid. */
struct rote_task_stamp {
	u64 container; /* cgroup id */
	u64 exec_id; /* names the execution that this process, or its ancestor, runs */
	u32 program; /* node; 0 unknown */
	u32 actor;
};

/* A watched cgroup; key of the map: cgroup id. */
struct rote_container {
	u64 container; /* cgroup id of the container this cgroup belongs to */
	u64 root_dentry; /* of its root mount; 0 until the first exec */
	u64 root_mount;
	u64 root_super;
	u32 model; /* 0: none yet, everything is novel */
	u32 flags;
	u32 init_pid; /* first process; 0: none yet */
	u32 prevent; /* bit of each detection that is refused */
	u32 ignored; /* bit of each detection that is not told */
	u32 pad;
	u64 startup_began; /* CLOCK_MONOTONIC, ns */
	u64 startup_until; /* 0: nothing was executed yet */
};

/* Key of the map of containers that are expected. */
struct rote_container_id {
	char digits[64];
};

struct rote_expected {
	u32 model;
	u32 flags;
	u32 prevent;
	u32 ignored;
};

struct rote_counters {
	u64 events;
	u64 lost;
	u64 truncated;
	u64 known;
	u64 refused; /* denied or killed */
	u64 suppressed; /* of these: not told, because too many came in one second */
	u64 second; /* the second that `told` counts, of CLOCK_MONOTONIC */
	u64 told;
	u64 errors[5];
};

struct rote_edge_key {
	u32 parent;
	u32 kind;
	char name[256]; /* whole component, padded with NUL */
};

/* The same for names that fit: a quarter of the work. Begins like the long one. */
struct rote_short_edge_key {
	u32 parent;
	u32 kind;
	char name[24];
};

struct rote_edge {
	u32 node;
	u32 flags;
};

/* Value of an execution key. */
enum rote_exec_value {
	EXEC_KNOWN = 1,
	EXEC_APPLET = 2, /* a multi-call program: known by the applets it may act as */
	EXEC_REPORT = 3, /* known, but told: a rule looks at the arguments */
	EXEC_SHAPE = 4, /* an interpreter: known by the ways in which it is called */
};

enum rote_exec_flag {
	EXEC_FLAG_STARTUP = 1, /* known only while the service starts up */
};

/* Since user space asked last. */
enum rote_seen {
	SEEN_STARTUP = 1,
	SEEN_STEADY = 2,
};

struct rote_exec_key {
	u32 model;
	u32 parent;
	u32 program;
	u32 origin;
	u32 actor;
};

struct rote_exec_known {
	u32 value; /* enum rote_exec_value */
	u32 flags;
	u32 seen;
};

struct rote_write_key {
	u32 node;
	u32 program;
};

/* operations and seen: low half for the node itself, high half for everything below it. */
struct rote_write_value {
	u32 operations;
	u32 seen; /* of these, since user space asked last */
};

struct rote_name_key {
	u64 device;
	u64 inode;
	u32 model;
	u32 program;
	u32 operation;
	u32 second; /* 1: the second name of a rename or link */
	char name[256];
};

struct rote_probe_key {
	u64 container;
	char argv[256];
};

/* Addresses are used again, so the inode is named by what stays its own. */
struct rote_file_key {
	u64 file;
	u64 inode; /* number */
	u32 device;
	u32 generation;
};

/*
 * A directory, as a container sees it. Addresses are used again, so it is named by what stays its
 * own; those of mounts and namespaces end with a change of mounts.
 */
struct rote_place_key {
	u64 inode; /* number */
	u64 address;
	u64 vfsmount;
	u64 mount_namespace;
	u64 container;
	u32 device;
	u32 generation;
	u32 root; /* of the trie */
	u32 pad;
};

/* Where in the trie it is. Holds while nothing was renamed or mounted and the trie is the same. */
struct rote_place_known {
	u32 renames;
	u32 mounts;
	u32 trie;
	u32 node;
	u32 node_flags;
	u32 left; /* components that the trie does not have */
};

struct rote_syscall_entry {
	u32 shape;
	u32 operation;
	u32 fd_arg; /* argument numbers from 0; 255: none (the working directory) */
	u32 name_arg;
	u32 fd2_arg;
	u32 name2_arg;
	u32 flags_arg;
	u32 pad;
};

struct rote_selftest {
	u64 inode;
	u64 pid;
	u64 cgroup_id;
	u64 mount_namespace;
};

#ifndef ROTE_NO_ASSERT
_Static_assert(sizeof(struct rote_event_header) == 24, "event_header");
_Static_assert(sizeof(struct rote_event) == 168, "event");
_Static_assert(sizeof(struct rote_task_stamp) == 24, "task_stamp");
_Static_assert(sizeof(struct rote_container) == 72, "container");
_Static_assert(sizeof(struct rote_counters) == 104, "counters");
_Static_assert(sizeof(struct rote_edge_key) == 264, "edge_key");
_Static_assert(sizeof(struct rote_short_edge_key) == 32, "short_edge_key");
_Static_assert(sizeof(struct rote_place_key) == 56, "place_key");
_Static_assert(sizeof(struct rote_place_known) == 24, "place_known");
_Static_assert(sizeof(struct rote_exec_key) == 20, "exec_key");
_Static_assert(sizeof(struct rote_name_key) == 288, "name_key");
_Static_assert(sizeof(struct rote_probe_key) == 264, "probe_key");
_Static_assert(sizeof(struct rote_syscall_entry) == 32, "syscall_entry");
#endif

#endif /* ROTE_EVENTS_H */
