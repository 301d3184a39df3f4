/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The verdict on one event, and the record about it.
 */

static __always_inline void count_add(u64 cgroup_id, u32 offset)
{
	struct rote_counters *n = counts.lookup(&cgroup_id);
	u64 none = 0;

	if (!n)
		n = counts.lookup(&none);
	if (n)
		__sync_fetch_and_add((u64 *)((void *)n + offset), 1);
}

#define COUNT(cgroup_id, field)                                                                    \
	count_add(cgroup_id, __builtin_offsetof(struct rote_counters, field))
#define COUNT_ERROR(cgroup_id, cause)                                                              \
	count_add(cgroup_id, __builtin_offsetof(struct rote_counters, errors) + 8 * (cause))

/* Steps for all paths of a record together, up and down again; what is left over is cut. */
#define TEXT_STEPS 256
#define SEGMENT_BEGIN 0
#define SEGMENT_WALK 1
#define SEGMENT_APPEND 2

static __always_inline void segment_end(struct rote_scratch *s, u32 segment, u32 is_cut)
{
	s->cut |= is_cut << segment;
	s->event.text_end[segment & 7] = s->offset;
	s->segment = segment + 1;
	s->segment_state = SEGMENT_BEGIN;
}

/* One component of the path in s->dentries, root first. */
static __always_inline void segment_append(struct rote_scratch *s, u32 segment)
{
	u32 limit = segment < TEXT_PROGRAM ? TEXT_PATH_MAX : TEXT_SHORT_MAX;
	u32 left = s->position;
	u32 offset = s->offset;
	u64 dentry;
	long size;

	if (!left || offset - s->segment_start + NAME_SIZE > limit) {
		segment_end(s, segment, left != 0);
		return;
	}
	left -= 1;
	s->position = left;
	dentry = s->dentries[left & (DEPTH_MAX - 1)];
	s->text[offset & TEXT_MASK] = '/';
	size = bpf_probe_read_kernel_str(&s->text[(offset + 1) & TEXT_MASK], NAME_SIZE,
					 (void *)FIELD(struct dentry, dentry, d_name.name));
	s->offset = offset + (size > 0 ? (u32)size : 1);
}

/*
 * Append the paths of s->place. One loop walks and writes all of them: the verifier looks at each
 * step of a loop anew, and loops inside a loop are multiplied.
 */
static __always_inline void text_append_places(struct rote_scratch *s)
{
	s->segment = 0;
	s->segment_state = SEGMENT_BEGIN;
	for (int i = 0; i < TEXT_STEPS; i++) {
		FORGET();
		u32 segment = s->segment;

		if (segment >= SEGMENT_WALKS)
			break;
		if (s->segment_state == SEGMENT_BEGIN) {
			if (s->place[segment].dentry) {
				walk_begin(s, s->place[segment].dentry, s->place[segment].vfsmount);
				s->segment_state = SEGMENT_WALK;
			} else {
				segment_end(s, segment, 0);
			}
		} else if (s->segment_state == SEGMENT_WALK) {
			u32 offset = s->offset;

			if (!walk_step(s))
				continue;
			s->segment_state = SEGMENT_APPEND;
			s->segment_start = offset;
			s->position = s->depth;
			s->cut |= (s->walk_end == WALK_END_TOO_DEEP) << segment;
			/* The root itself; else the first component writes the same. */
			s->text[offset & TEXT_MASK] = '/';
			s->offset = offset + !s->depth;
		} else {
			segment_append(s, segment);
		}
	}
	for (int i = 0; i < SEGMENT_WALKS; i++) {
		FORGET();
		u32 segment = s->segment;

		if (segment >= SEGMENT_WALKS)
			break;
		segment_end(s, segment, s->place[segment].dentry != 0);
	}
}

static __always_inline u64 task_program_file(u64 task)
{
	return FIELD(struct mm_struct, FIELD(struct task_struct, task, mm), exe_file);
}

/* The strings of the acting process: its program, its parent's, its directory, its arguments. */
static __always_inline void place_process(struct rote_scratch *s)
{
	u64 task = bpf_get_current_task();
	u64 parent = FIELD(struct task_struct, task, real_parent);
	u64 file;

	file = task_program_file(task);
	if (file)
		place_file(&s->place[TEXT_PROGRAM], file);
	file = task_program_file(parent);
	if (file)
		place_file(&s->place[TEXT_PARENT], file);
	place_path(&s->place[TEXT_CWD],
		   FIELD(struct task_struct, task, fs) + __builtin_offsetof(struct fs_struct, pwd));
	s->event.parent_pid = FIELD(struct task_struct, parent, tgid);
	if (FIELD(struct signal_struct, FIELD(struct task_struct, task, signal), tty))
		s->event.flags |= EVENT_FLAG_TTY;
}

/* Where the arguments of the program that runs lie, in its own memory. */
static __always_inline u64 arguments_start(struct rote_scratch *s)
{
	if (s->argv_start)
		return s->argv_start;
	return FIELD(struct mm_struct, FIELD(struct task_struct, bpf_get_current_task(), mm),
		     arg_start);
}

static __always_inline u64 arguments_end(struct rote_scratch *s)
{
	if (s->argv_start)
		return s->argv_end;
	return FIELD(struct mm_struct, FIELD(struct task_struct, bpf_get_current_task(), mm),
		     arg_end);
}

static __always_inline void text_append_arguments(struct rote_scratch *s)
{
	u64 start = arguments_start(s);
	u64 size = arguments_end(s) - start;
	u32 offset = s->offset;

	if (!start)
		return;
	if (size > ARGV_MAX) {
		size = ARGV_MAX;
		s->event.flags |= EVENT_FLAG_ARGV_TRUNCATED;
	}
	if (!bpf_probe_read_user(&s->text[offset & TEXT_MASK], (u32)size & (2 * ARGV_MAX - 1),
				 (void *)start))
		s->offset = offset + (u32)size;
}

/* The saved registers of the system call that runs; of a worker of io_uring: of none. */
static __always_inline u64 current_registers(void)
{
	return FIELD(struct task_struct, bpf_get_current_task(), stack) + THREAD_SIZE -
	       sizeof(struct pt_regs);
}

static __always_inline u64 current_system_call(void)
{
	u64 regs = current_registers();

	return FIELD(struct pt_regs, regs, orig_ax);
}

/*
 * The arguments of an execution that is about to happen, for the person who reads about it. They
 * still lie in the caller's memory, where another thread may change them: nothing is decided by
 * them.
 */
static __always_inline void text_append_new_arguments(struct rote_scratch *s)
{
	u64 regs = current_registers();
	u64 number = current_system_call();

	if (number == SYSCALL_EXECVE)
		s->argument[0] = FIELD(struct pt_regs, regs, si);
	else if (number == SYSCALL_EXECVEAT)
		s->argument[0] = FIELD(struct pt_regs, regs, dx);
	else
		return;
	s->position = s->offset;
	for (u32 i = 0; i < NEW_ARGUMENTS_MAX; i++) {
		FORGET();
		u32 offset = s->offset;
		u64 argument = 0;
		long size;

		bpf_probe_read_user(&argument, sizeof(argument), (void *)s->argument[0]);
		if (!argument)
			return;
		s->argument[0] += sizeof(argument);
		if (offset - s->position > ARGV_MAX) {
			s->event.flags |= EVENT_FLAG_ARGV_TRUNCATED;
			return;
		}
		size = bpf_probe_read_user_str(&s->text[offset & TEXT_MASK], ARGV_MAX,
					       (void *)argument);
		if (size > 0)
			s->offset = offset + (u32)size;
	}
}

static __always_inline void text_append_name(struct rote_scratch *s, u64 name)
{
	u32 offset = s->offset;
	long size;

	if (!name)
		return;
	if (s->names_in_kernel)
		size = bpf_probe_read_kernel_str(&s->text[offset & TEXT_MASK], TEXT_SLACK,
						 (void *)name);
	else
		size = bpf_probe_read_user_str(&s->text[offset & TEXT_MASK], TEXT_SLACK,
					       (void *)name);
	if (size > 1)
		s->offset = offset + (u32)size - 1;
}

/*
 * Whether one more refusal of this container may be told within this second. Deciding does not
 * depend on it.
 */
static __always_inline int may_tell(u64 container)
{
	struct rote_counters *n = counts.lookup(&container);
	u64 second = bpf_ktime_get_ns() >> 30;

	if (!n)
		return 1;
	if (n->second != second) {
		n->second = second;
		n->told = 0;
	}
	n->told += 1;
	if (n->told <= TOLD_MAX)
		return 1;
	__sync_fetch_and_add(&n->suppressed, 1);
	return 0;
}

/*
 * Send the record: s->place names the paths, s->event the rest. `before`: of an execution that is
 * not complete. The walk of the object is made
 * again here; only novelty comes this far. Returns 0 when it was lost.
 */
static __always_inline int event_emit(void *ctx, struct rote_scratch *s, struct rote_container *c,
				      u32 kind, const int before)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u64 uid_gid = bpf_get_current_uid_gid();
	u64 container = c->container;
	u32 size;

	if (s->event.error || (s->event.flags & EVENT_FLAG_KILLED)) {
		COUNT(container, refused);
		if (!may_tell(container))
			return 1;
	}
	s->event.header.kind = kind;
	s->event.header.ktime_ns = bpf_ktime_get_ns();
	s->event.header.cgroup_id = container;
	s->event.pid = pid_tgid >> 32;
	s->event.tid = (u32)pid_tgid;
	s->event.uid = (u32)uid_gid;
	s->event.gid = uid_gid >> 32;
	s->event.model = c->model;
	if (!c->model)
		s->event.flags |= EVENT_FLAG_PENDING;
	place_process(s);
	s->offset = 0;
	s->cut = 0;
	text_append_places(s);
	FORGET();
	if (s->cut & (1 << TEXT_PATH))
		s->event.flags |= EVENT_FLAG_PATH_TRUNCATED;
	if (s->cut & (1 << TEXT_PATH2))
		s->event.flags |= EVENT_FLAG_PATH2_TRUNCATED;
	if (s->cut & (1 << TEXT_PROGRAM))
		s->event.flags |= EVENT_FLAG_PROGRAM_TRUNCATED;
	if (ATTACH == ATTACH_TRACEPOINT)
		text_append_name(s, s->names[0]);
	s->event.text_end[TEXT_NAME] = s->offset;
	if (ATTACH == ATTACH_TRACEPOINT)
		text_append_name(s, s->names[1]);
	s->event.text_end[TEXT_NAME2] = s->offset;
	if (before)
		text_append_new_arguments(s);
	else
		text_append_arguments(s);
	s->event.text_end[TEXT_ARGV] = s->offset;
	if (s->cut)
		COUNT(container, truncated);
	if (!scratch_kept(s)) {
		COUNT_ERROR(container, ERROR_SCRATCH);
		return 0;
	}
	size = s->offset;
	if (size > TEXT_MASK)
		size = TEXT_MASK;
	size += sizeof(struct rote_event);
	s->event.header.size = size;
	if (events.ringbuf_output(&s->event, size, 0)) {
		COUNT(container, lost);
		return 0;
	}
	COUNT(container, events);
	return 1;
}

/*
 * Whether the names cache says that s->names[i], relative to s->place[TEXT_PATH + i], is known to
 * program s->event.program_node and that this still holds.
 */
static __always_inline int name_is_known(struct rote_scratch *s, struct rote_container *c, u32 i)
{
	u64 inode = dentry_inode(s->place[i].dentry);
	u64 *until;
	long size;

	bpf_probe_read_kernel(s->name.name, NAME_SIZE, s->zero);
	if (s->names_in_kernel)
		size = bpf_probe_read_kernel_str(s->name.name, NAME_SIZE, (void *)s->names[i]);
	else
		size = bpf_probe_read_user_str(s->name.name, NAME_SIZE, (void *)s->names[i]);
	s->name.device = FIELD(struct super_block, FIELD(struct inode, inode, i_sb), s_dev);
	s->name.inode = FIELD(struct inode, inode, i_ino);
	s->name.model = c->model;
	s->name.program = s->event.program_node;
	s->name.operation = s->event.operation;
	s->name.second = i;
	if (!i) {
		s->event.base_device = s->name.device;
		s->event.base_inode = s->name.inode;
	} else {
		s->event.base2_device = s->name.device;
		s->event.base2_inode = s->name.inode;
	}
	if (size <= 0 || size >= NAME_SIZE)
		return 0;
	until = names.lookup(&s->name);
	return until && *until > bpf_ktime_get_ns();
}

/* The node of the program a task runs, as far as anybody knows by now. */
static __always_inline u32 stamp_program(struct rote_task_stamp *stamp)
{
	u64 id = stamp->exec_id;
	u32 *program;

	if (stamp->program)
		return stamp->program;
	program = resolved.lookup(&id);
	if (!program)
		return NODE_NONE;
	stamp->program = *program;
	return *program;
}

/* What `program` may do where the match of a path ended. */
static __always_inline u32 write_operations(struct rote_scratch *s, u32 program)
{
	struct rote_write_key key = { .node = s->node, .program = program };
	struct rote_write_value *value = write_keys.lookup(&key);

	if (!value)
		return 0;
	return s->position ? value->operations >> 16 : value->operations & 0xffff;
}

/* Whether it may do all or some of `classes` there; marks that it did. */
static __always_inline int write_granted(struct rote_scratch *s, u32 program, u32 classes)
{
	struct rote_write_key key = { .node = s->node, .program = program };
	struct rote_write_value *value = write_keys.lookup(&key);
	u32 wanted = s->position ? classes << 16 : classes & 0xffff;

	if (!value || !(value->operations & wanted))
		return 0;
	/* Read first, so that the steady state writes to no memory that processors share. */
	if ((value->seen & wanted) != wanted)
		value->seen |= wanted;
	return 1;
}

static __always_inline void detection_raise(struct rote_scratch *s, u32 detection)
{
	if (s->event.detection < detection)
		s->event.detection = detection;
}

/* Whether a name is that of code, by its end: what _PROTECTED_SUFFIXES in sensor/paths.py has. */
static __always_inline int name_is_code(u64 dentry)
{
	u64 tail[2] = {};
	u32 length = FIELD(struct dentry, dentry, d_name.len);
	u64 name = FIELD(struct dentry, dentry, d_name.name);
	u64 end;

	if (length < 3)
		return 0;
	/* Shorter names stand behind zeros, so that the end is where it always is. */
	if (length >= 16) {
		bpf_probe_read_kernel(tail, 16, (void *)(name + length - 16));
	} else if (length >= 8) {
		bpf_probe_read_kernel(&tail[0], 8, (void *)name);
		bpf_probe_read_kernel(&tail[1], 8, (void *)(name + length - 8));
	} else {
		bpf_probe_read_kernel(&tail[1], 8, (void *)name);
		tail[1] <<= 8 * (8 - length);
	}
	end = tail[1];
	return end >> 40 == 0x6f732e /* .so */ || end >> 40 == 0x79702e /* .py */ ||
	       end >> 40 == 0x6c702e /* .pl */ || end >> 40 == 0x68732e /* .sh */ ||
	       end >> 40 == 0x6f6b2e /* .ko */ || end >> 32 == 0x7068702e /* .php */ ||
	       end >> 32 == 0x70736a2e /* .jsp */ || end >> 32 == 0x6967632e /* .cgi */ ||
	       end >> 16 == 0x6c6d7468702e /* .phtml */ ||
	       end >> 16 == 0x72656d69742e /* .timer */ || end == 0x656369767265732e /* .service */;
}

/* Whether a rule denies this change of object i, whose path was matched. */
static __always_inline int object_is_denied(struct rote_scratch *s, u32 i)
{
	u32 program = s->event.program_node;

	return ((write_operations(s, NODE_DENIED | program) |
		 write_operations(s, NODE_DENIED | NODE_ANY)) &
		s->classes[i]) != 0;
}

/* Whether the edge leads to where the acting program may do `classes`. */
static __always_inline int edge_grants(struct rote_scratch *s, struct rote_edge *edge, u32 classes)
{
	if (!edge)
		return 0;
	s->node = edge->node;
	s->position = 0;
	return write_granted(s, s->event.program_node, classes);
}

#define EXTENSION_MAX 16

/* Where the extension of the name in s->key begins, into s->dot; 0: it has none. */
static __always_inline void name_find_extension(struct rote_scratch *s, u32 length)
{
	s->dot = 0;
	for (u32 i = 1; i <= EXTENSION_MAX; i++) {
		FORGET();
		if (i >= length)
			break;
		if (s->key.name[(length - i) & (NAME_SIZE - 1)] == '.') {
			s->dot = i > 1 ? length - i : 0;
			break;
		}
	}
	FORGET();
}

/* Whether nothing of the name in s->key, which has no extension, forbids to take it for data. */
static __always_inline int name_is_data(struct rote_scratch *s)
{
	u64 *words = (u64 *)s->key.name;

	/* authorized_keys is nobody's data. */
	return s->key.name[0] != '.' &&
	       !(words[0] == 0x7a69726f68747561 && (words[1] << 8) == 0x7379656b5f646500);
}

/*
 * `*.log`: the name in s->key has an extension that the program may use in directory `parent`.
 * `<*>`: it has none, and the program may use any such name.
 */
static __always_inline int extension_granted(struct rote_scratch *s, u32 parent, u32 length,
					     u32 classes)
{
	u32 dot;

	name_find_extension(s, length);
	dot = s->dot;
	short_name_clear(&s->class_key);
	s->class_key.parent = parent;
	if (dot) {
		bpf_probe_read_kernel_str(s->class_key.name, EXTENSION_MAX + 1,
					  &s->key.name[dot & (NAME_SIZE - 1)]);
		s->class_key.kind = LABEL_KIND_EXTENSION;
		return edge_grants(s, edge_find(&s->class_key, length - dot), classes);
	}
	if (!name_is_data(s))
		return 0;
	s->class_key.kind = LABEL_KIND_DATA;
	return edge_grants(s, edge_find(&s->class_key, 0), classes);
}

#define TEMPORARY_TAIL 6
#define TEMPORARY_LONG_TAIL 8

/*
 * `sed<T>`, `tmp<T8>`: the name in s->key less the letters and digits that mkstemp of the C library
 * makes up, or tempfile of Python.
 */
static __always_inline int temporary_granted(struct rote_scratch *s, u32 parent, u32 length,
					     const u32 tail, u32 classes)
{
	int zero = 0;
	struct rote_byte_table *table = bytes.lookup(&zero);
	u32 all = tail == TEMPORARY_TAIL ? BYTE_TEMPORARY : BYTE_TEMPORARY_LONG;

	if (!table || length <= tail)
		return 0;
	/* Without a branch, for the verifier's sake. */
	for (u32 i = 1; i <= tail; i++) {
		u8 byte = s->key.name[(length - i) & (NAME_SIZE - 1)];

		all &= table->kind[byte];
	}
	FORGET();
	if (!all)
		return 0;
	bpf_probe_read_kernel(s->class_key.name, NAME_SIZE, s->key.name);
	bpf_probe_read_kernel(&s->class_key.name[(length - tail) & (NAME_SIZE - 1)], tail, s->zero);
	s->class_key.parent = parent;
	s->class_key.kind = tail == TEMPORARY_TAIL ? LABEL_KIND_TEMPORARY :
						     LABEL_KIND_TEMPORARY_LONG;
	return edge_grants(s, edge_find(&s->class_key, length - tail), classes);
}

/*
 * What is said of last components in the directory that match_path() came by, beside the edge that
 * it took. The names of the image's own files are fixed, so it says nothing of these. Leaves s->node
 * and s->position as they were, unless it is granted.
 */
static __always_inline int last_component_granted(struct rote_scratch *s, struct rote_container *c,
						  u64 dentry, u32 classes)
{
	u64 inode = dentry_inode(dentry);
	u32 parent = s->place_known.node;
	u32 node = s->node;
	u32 position = s->position;
	u32 length;

	if (s->place_known.left || !(s->place_known.node_flags & NODE_FLAG_HAS_LAST))
		return 0;
	if (inode && inode_origin(c, inode, 0) == ORIGIN_IMAGE) {
		s->event.flags |= EVENT_FLAG_SHIPPED;
		return 0;
	}
	FORGET();
	length = key_load_component(s, dentry);
	FORGET();
	if (extension_granted(s, parent, length, classes))
		return 1;
	FORGET();
	if (temporary_granted(s, parent, length, TEMPORARY_TAIL, classes))
		return 1;
	FORGET();
	if (temporary_granted(s, parent, length, TEMPORARY_LONG_TAIL, classes))
		return 1;
	s->node = node;
	s->position = position;
	return 0;
}

/*
 * Object i of a change: where its walk ends, and whether the model knows it. With `recall` the
 * dentry and vfsmount are pointers of a known type, and the walk may have been made before.
 */
static __always_inline void object_judge(struct rote_scratch *s, struct rote_container *c, u32 i,
					 u64 dentry, u64 vfsmount, const int recall)
{
	u32 root = NODE_MODEL_ROOT + c->model;

	s->recalled = 0;
	s->place_known.left = MATCH_NOT_DONE;
	/* Code is looked up among the programs as well, by the whole path. */
	if (recall && c->model && s->classes[i] && s->classes[i] != RULE_CLASS_EXEC)
		s->recalled = place_recall(s, c, dentry, vfsmount, root);
	FORGET();
	if (recall && s->recalled) {
		s->walk_end = WALK_END_ROOT;
	} else {
		walk(s, s->place[i].dentry, s->place[i].vfsmount);
		s->walk_end = walk_judge_end(s, c);
		match_begin(s, root);
	}
	if (i)
		s->event.walk_end2 = s->walk_end;
	else
		s->event.walk_end = s->walk_end;
	FORGET();
	if (s->walk_end != WALK_END_ROOT) {
		s->known = 0;
		return;
	}
	if (!c->model || !s->classes[i])
		return;
	/* Below a directory that the trie does not have there is nothing to match. */
	if (!recall || !s->recalled || s->position == 1)
		match_path(s);
	FORGET();
	if (recall && !s->recalled)
		place_remember(s);
	FORGET();
	if (write_granted(s, s->event.program_node, s->classes[i]) ||
	    ((c->flags & CONTAINER_FLAG_RULES) && (write_operations(s, NODE_ANY) & s->classes[i])))
		return;
	FORGET();
	if (object_is_denied(s, i)) {
		detection_raise(s, DETECTION_DENIED_PATH);
	} else if (last_component_granted(s, c, s->place[i].dentry, s->classes[i])) {
		return;
	} else if ((write_operations(s, NODE_PROTECTED) & s->classes[i]) ||
		   name_is_code(s->place[i].dentry)) {
		detection_raise(s, DETECTION_PROTECTED_WRITE);
	}
	s->known = 0;
}

/* Where the content of the first object comes from: for who reads of it, and for code. */
static __always_inline void object_note_origin(struct rote_scratch *s, struct rote_container *c)
{
	u64 inode = dentry_inode(s->place[0].dentry);

	if (inode)
		s->event.origin = inode_origin(c, inode, 0);
}

/* Whether what the model does not know is refused in this container. */
static __always_inline int is_prevented(struct rote_container *c)
{
	return c->prevent && c->model;
}

/* Whether nobody wants to be told of this kind of deviation. */
static __always_inline int novelty_ignored(struct rote_scratch *s, struct rote_container *c)
{
	return !s->refused && !(s->event.flags & EVENT_FLAG_KILLED) &&
	       (c->ignored & (1U << (s->event.detection & 31)));
}

/* What becomes of something that could not be judged. */
static __always_inline int refused_on_error(struct rote_container *c)
{
	return is_prevented(c) && !(c->flags & CONTAINER_FLAG_ERROR_ALLOW);
}

/*
 * What a novelty leads to, before it is told. Where the hook can, s->refused makes it return an
 * error; where it cannot, the process is killed. What is known by name only may yet turn out to
 * be known: that is left to user space.
 */
static __always_inline void novelty_refuse(struct rote_scratch *s, struct rote_container *c,
					   int can_deny)
{
	if (!is_prevented(c) || !(c->prevent & (1U << (s->event.detection & 31))))
		return;
	if (s->event.actor == ACTOR_SESSION && (c->flags & CONTAINER_FLAG_SESSIONS))
		return;
	if (!s->event.program_node)
		COUNT_ERROR(c->container, ERROR_UNRESOLVED);
	if (can_deny) {
		s->refused = 1;
		s->event.error = -EPERM;
	} else {
		bpf_send_signal(SIGKILL);
		s->event.flags |= EVENT_FLAG_KILLED;
	}
}

/* A mapping of code is known when it is code of a volume that the program was seen to load. */
static __always_inline int mapped_code_is_known(struct rote_scratch *s, struct rote_container *c)
{
	struct rote_exec_key key = {
		.model = c->model,
		.parent = s->event.program_node,
		.origin = s->event.origin,
		.actor = ACTOR_SERVICE,
	};

	struct rote_exec_known *known;

	if (s->event.walk_end != WALK_END_ROOT || s->event.origin != ORIGIN_MOUNT ||
	    !s->event.program_node || !c->model)
		return 0;
	match_begin(s, NODE_PROGRAMS);
	key.program = match_program_path(s);
	if (!key.program)
		return 0;
	known = exec_keys.lookup(&key);
	if (known && !known->seen)
		known->seen = SEEN_STEADY;
	return known != NULL;
}

/* What the last components of the match say of executing: allowed, denied. */
static __always_inline void exec_marks(struct rote_scratch *s, u32 *allowed)
{
	u32 marks = write_operations(s, NODE_ANY);
	u32 origin = s->event.origin;

	if (write_operations(s, NODE_DENIED | NODE_ANY) & RULE_CLASS_EXEC)
		detection_raise(s, DETECTION_DENIED_PROGRAM);
	if (origin == ORIGIN_MEMORY)
		return;
	/* Under a path that a rule allows, too, only what nobody wrote meanwhile. */
	if ((origin == ORIGIN_ADDED || origin == ORIGIN_TMPFS) && !(marks & RULE_CLASS_EXEC_ADDED))
		return;
	*allowed |= marks & (RULE_CLASS_EXEC | RULE_CLASS_EXEC_REPORT);
}

/* The same of a name in s->key, of `length` bytes. */
static __always_inline void exec_name_marks(struct rote_scratch *s, struct rote_container *c,
					    u32 length, u32 *allowed)
{
	struct rote_edge *edge;

	s->key.parent = NODE_MODEL_ROOT + c->model;
	s->key.kind = LABEL_KIND_NAME;
	edge = edge_find(&s->key, length);
	if (!edge)
		return;
	s->node = edge->node;
	s->position = 0;
	exec_marks(s, allowed);
}

/*
 * What rules say of the program in s->place[TEXT_PATH], that the model does not know: denied ones
 * raise their detection. Returns enum rote_exec_value of one that is allowed, else 0. What is not
 * where it seems to be is never allowed.
 */
static __always_inline u32 exec_by_rule(struct rote_scratch *s, struct rote_container *c)
{
	u32 allowed = 0;
	u32 length;

	if (!(c->flags & CONTAINER_FLAG_RULES) || !c->model)
		return 0;
	walk(s, s->place[TEXT_PATH].dentry, s->place[TEXT_PATH].vfsmount);
	FORGET();
	match_begin(s, NODE_MODEL_ROOT + c->model);
	match_path(s);
	FORGET();
	exec_marks(s, &allowed);
	length = key_load_component(s, s->place[TEXT_PATH].dentry);
	exec_name_marks(s, c, length, &allowed);
	if (s->event.walk_end != WALK_END_ROOT || s->event.detection == DETECTION_DENIED_PROGRAM)
		return 0;
	if (allowed & RULE_CLASS_EXEC_REPORT)
		return EXEC_REPORT;
	return allowed ? EXEC_KNOWN : 0;
}

/*
 * What kind of deviation an execution is that is not known. `elsewhere`: its program is known, with
 * another parent.
 */
static __always_inline void exec_detect(struct rote_scratch *s, u32 elsewhere)
{
	u32 origin = s->event.origin;

	if (s->event.detection == DETECTION_DENIED_PROGRAM)
		return;
	if (origin == ORIGIN_MEMORY)
		s->event.detection = DETECTION_MEMORY_PROGRAM;
	else if (s->event.walk_end != WALK_END_ROOT)
		s->event.detection = DETECTION_UNKNOWN_PROGRAM;
	else if ((origin == ORIGIN_ADDED || origin == ORIGIN_TMPFS) &&
		 s->event.operation != OPERATION_SCRIPT)
		s->event.detection = DETECTION_CHANGED_PROGRAM;
	else if (s->event.actor == ACTOR_SESSION && s->event.program_node == NODE_RUNTIME)
		s->event.detection = DETECTION_EXEC_SESSION;
	else if (s->event.flags & EVENT_FLAG_SETUID)
		s->event.detection = DETECTION_SETUID_PROGRAM;
	else if (s->startup_only > 1)
		s->event.detection = DETECTION_STARTUP_PROGRAM;
	else if (s->unknown_shape)
		s->event.detection = DETECTION_UNKNOWN_ARGUMENTS;
	else
		s->event.detection = elsewhere ? DETECTION_UNKNOWN_PARENT :
						 DETECTION_UNKNOWN_PROGRAM;
}

/* Code that is mapped, after object_judge(): known to the model, or what a rule says of it. */
static __always_inline void code_judge(struct rote_scratch *s, struct rote_container *c)
{
	u32 allowed = 0;

	s->event.detection = DETECTION_NONE;
	/* object_judge() matched the path. */
	if ((c->flags & CONTAINER_FLAG_RULES) && c->model && s->event.walk_end == WALK_END_ROOT)
		exec_marks(s, &allowed);
	s->known = mapped_code_is_known(s, c);
	FORGET();
	if (!s->known && (c->flags & CONTAINER_FLAG_RULES) && c->model) {
		u32 length = key_load_component(s, s->place[0].dentry);

		exec_name_marks(s, c, length, &allowed);
		s->known = allowed && s->event.walk_end == WALK_END_ROOT;
	}
	if (s->event.detection == DETECTION_DENIED_PROGRAM)
		s->known = 0;
	exec_detect(s, 0);
}

/*
 * Judge the change in s->place[0 .. objects) and send a record when it is novel; s->refused says
 * what the hook has to return. `typed` are the same places as pointers of a known type, or
 * NULL; only with `may_be_code` the operation may be OPERATION_MAP_EXEC. Returns 0 only when the record was lost, so that the same object
 * has to be judged again.
 */
static __always_inline int change_judge(void *ctx, struct rote_scratch *s, struct rote_container *c,
					struct rote_task_stamp *stamp, const u32 objects,
					const struct rote_place *typed, const int may_be_code)
{
	s->event.actor = stamp->actor;
	s->event.program_node = stamp_program(stamp);
	s->event.exec_id = stamp->exec_id;
	s->event.caller_exec_id = 0;
	s->event.detection = DETECTION_UNKNOWN_WRITE;
	s->known = c->model && (objects || s->by_name);
	if (ATTACH == ATTACH_TRACEPOINT && s->by_name) {
		s->event.walk_end = WALK_END_BY_NAME;
		if (s->objects > 1)
			s->event.walk_end2 = WALK_END_BY_NAME;
		for (u32 i = 0; i < 2; i++) {
			FORGET();
			if (i < s->objects && !name_is_known(s, c, i))
				s->known = 0;
		}
	} else {
		if (objects > 0)
			object_judge(s, c, 0, typed ? typed[0].dentry : 0,
				     typed ? typed[0].vfsmount : 0, typed != NULL);
		FORGET();
		if (objects > 1)
			object_judge(s, c, 1, typed ? typed[1].dentry : 0,
				     typed ? typed[1].vfsmount : 0, typed != NULL);
	}
	FORGET();
	if ((may_be_code && s->event.operation == OPERATION_MAP_EXEC) || !s->known)
		object_note_origin(s, c);
	FORGET();
	if (may_be_code && s->event.operation == OPERATION_MAP_EXEC) {
		/* Only code that the image did not bring. */
		if (s->event.origin == ORIGIN_IMAGE || s->event.origin == ORIGIN_UNKNOWN)
			return 1;
		s->event.caller_exec_id = stamp->exec_id;
		code_judge(s, c);
	} else if (s->event.walk_end == WALK_END_INTERNAL) {
		/* Overlay's backing files were judged above. */
		s->known = 1;
		return 1;
	}
	FORGET();
	if (!scratch_kept(s)) {
		COUNT_ERROR(c->container, ERROR_SCRATCH);
		s->refused = refused_on_error(c);
		return 1;
	}
	if (s->known) {
		COUNT(c->container, known);
		return 1;
	}
	if (!s->by_name)
		novelty_refuse(s, c, ATTACH != ATTACH_TRACEPOINT);
	/* What is known by name only, user space knows better. */
	if (!s->by_name && novelty_ignored(s, c)) {
		COUNT(c->container, known);
		return 1;
	}
	return event_emit(ctx, s, c,
			  may_be_code && s->event.operation == OPERATION_MAP_EXEC ? EVENT_EXEC :
										    EVENT_FILE,
			  0);
}

/* Whether a file is the one that the task runs; an exec maps it, and was judged itself. */
static __always_inline int file_is_own_program(u64 file)
{
	u64 mm = LOAD(struct task_struct, CURRENT_TASK(), mm);

	return LOAD(struct file, file, f_inode) ==
	       LOAD(struct file, LOAD(struct mm_struct, mm, exe_file), f_inode);
}

/* What mmap makes of the protection that was asked for (mmap_prot() in security/security.c). */
static __always_inline u64 mapped_protection(u64 protection)
{
	u64 task = CURRENT_TASK();

	if ((protection & PROT_READ) &&
	    (LOAD(struct task_struct, task, personality) & READ_IMPLIES_EXEC))
		return protection | PROT_EXEC;
	return protection;
}

static __always_inline u32 operation_class(u32 operation)
{
	if (operation <= OPERATION_MAP_EXEC)
		return RULE_CLASS_EXEC;
	if (operation <= OPERATION_MAP_WRITE)
		return OPERATION_CLASS_WRITE;
	if (operation <= OPERATION_RENAME) /* the old name of a rename is removed */
		return OPERATION_CLASS_REMOVE;
	if (operation <= OPERATION_SYMLINK)
		return OPERATION_CLASS_LINK;
	if (operation == OPERATION_MKDIR)
		return OPERATION_CLASS_MKDIR;
	if (operation == OPERATION_MKNOD)
		return OPERATION_CLASS_MKNOD;
	if (operation <= OPERATION_REMOVEXATTR)
		return OPERATION_CLASS_ATTRIBUTES;
	if (operation <= OPERATION_PIVOT_ROOT)
		return OPERATION_CLASS_MOUNT;
	if (operation == OPERATION_TRACE)
		return OPERATION_CLASS_TRACE;
	if (operation == OPERATION_LOAD_CODE)
		return OPERATION_CLASS_LOAD_CODE;
	return OPERATION_CLASS_WRITE;
}

static __always_inline struct rote_file_key file_key(u64 file)
{
	u64 inode = LOAD(struct file, file, f_inode);
	struct rote_file_key key = {
		.file = file,
		.inode = LOAD(struct inode, inode, i_ino),
		.device = LOAD(struct super_block, LOAD(struct inode, inode, i_sb), s_dev),
		.generation = LOAD(struct inode, inode, i_generation),
	};

	return key;
}

/*
 * An open file is judged once: at its open, or at its first write when it was opened elsewhere.
 * Noted once it was judged and no record about it was lost; with the model that knew it, so that
 * what was only watched does not count where it would be refused.
 */
static __always_inline void file_note_judged(struct rote_scratch *s, struct rote_container *c,
					     u64 file)
{
	struct rote_file_key key = file_key(file);
	u32 model = s->known ? c->model : 0;

	judged.update(&key, &model);
}

static __always_inline int file_is_judged(struct rote_container *c, u64 file)
{
	struct rote_file_key key = file_key(file);
	u32 *model = judged.lookup(&key);

	return model && (*model == c->model || !is_prevented(c));
}

static __always_inline int file_is_regular(u64 file)
{
	return (LOAD(struct inode, LOAD(struct file, file, f_inode), i_mode) & S_IFMT) == S_IFREG;
}

/*
 * A file that is no pipe, socket or sink, and is not overlay's own backing file. A file without a
 * name that user space made (memfd) is memory as well.
 */
static __always_inline int file_is_object(u64 file, u32 operation)
{
	u64 inode = LOAD(struct file, file, f_inode);
	u64 dentry = LOAD(struct file, file, f_path.dentry);
	u32 type = LOAD(struct inode, inode, i_mode) & S_IFMT;

	/* Before 6.6 overlay opens the backing file under the container's own path. */
	if (inode != LOAD(struct dentry, dentry, d_inode))
		return 0;
	if (operation != OPERATION_MAP_EXEC &&
	    (LOAD(struct super_block, LOAD(struct inode, inode, i_sb), s_flags) & SB_KERNMOUNT))
		return 0;
	return type == S_IFREG || (type == S_IFCHR && !inode_is_sink(inode)) || type == S_IFBLK;
}
