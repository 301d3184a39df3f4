/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Executions.
 *
 * sched_process_exec, since 3.4, raw since 4.17: fires in the new program's own context after the
 * old one is gone and before the first instruction of the new one, for execve, execveat and
 * io_uring alike, with the final file and the final arguments. It misses attempts that failed,
 * and code that is mapped rather than executed (MAP_EXEC, bpf/write.bpf.c).
 */

/* Where the last component of a NUL terminated name in s->name.name starts. */
static __always_inline u32 name_last_component(struct rote_scratch *s)
{
	s->position = s->name.name[0] == '-'; /* a login shell */
	for (u32 i = 0; i < NAME_SIZE - 1; i++) {
		FORGET();
		if (!s->name.name[i])
			break;
		if (s->name.name[i] == '/')
			s->position = i + 1;
	}
	FORGET();
	return s->position;
}

/* The applet that argument number `which` (0 or 1) names, looked up below node `program`. */
static __always_inline struct rote_edge *applet_edge(struct rote_scratch *s, u32 program,
						     u64 argument)
{
	u32 start;
	long size;

	bpf_probe_read_kernel(s->name.name, NAME_SIZE, s->zero);
	bpf_probe_read_user_str(s->name.name, NAME_SIZE, (void *)argument);
	start = name_last_component(s);
	bpf_probe_read_kernel(s->key.name, NAME_SIZE, s->zero);
	size = bpf_probe_read_kernel_str(s->key.name, NAME_SIZE,
					 &s->name.name[start & (NAME_SIZE - 1)]);
	s->key.parent = program;
	s->key.kind = LABEL_KIND_APPLET;
	s->applet_length = size > 0 ? size - 1 : 0;
	return edge_find(&s->key, size > 0 ? size - 1 : 0);
}

/*
 * The node of the program that now runs: its path (s->node), and for a multi-call binary its
 * applet, which
 * is argv[0], or argv[1] where argv[0] is the binary's own name (`busybox nc`).
 */
static __always_inline u32 program_node(struct rote_scratch *s)
{
	u32 program = s->position ? NODE_NONE : s->node;
	u64 argument, end;
	struct rote_edge *edge;

	argument = arguments_start(s);
	s->shape_argument = argument;
	if (!program || !(s->node_flags & NODE_FLAG_MULTICALL))
		return program;
	end = arguments_end(s);
	for (u32 i = 0; i < 2; i++) {
		long size;

		FORGET();
		/* Without any applet it is the binary itself. */
		if (i && argument >= end)
			return program;
		edge = applet_edge(s, program, argument);
		if (!edge)
			return NODE_NONE;
		s->shape_argument = argument;
		if (!(edge->flags & NODE_FLAG_MULTICALL))
			return edge->node;
		size = bpf_probe_read_user_str(s->name.name, NAME_SIZE, (void *)argument);
		argument += size > 0 ? size : 0;
	}
	return NODE_NONE;
}

/* Who acts, when a task without a stamp executes its first program inside. */
static __always_inline u32 actor_of_newcomer(struct rote_scratch *s, struct rote_container *c,
					     u32 pid)
{
	u64 start = arguments_start(s);
	u64 size = arguments_end(s) - start;

	if (c->flags & CONTAINER_FLAG_NO_SESSIONS)
		return ACTOR_SERVICE;
	if (!c->init_pid) {
		c->init_pid = pid;
		return ACTOR_SERVICE;
	}
	bpf_probe_read_kernel(s->probe.argv, NAME_SIZE, s->zero);
	s->probe.container = c->container;
	if (size < NAME_SIZE)
		bpf_probe_read_user(s->probe.argv, (u32)size & (NAME_SIZE - 1), (void *)start);
	return probes.lookup(&s->probe) ? ACTOR_PROBE : ACTOR_SESSION;
}

/* No two executions share it for 208 days: one processor begins no two in a nanosecond. */
static __always_inline u64 exec_id(void)
{
	return (bpf_ktime_get_ns() << 8 | (bpf_get_smp_processor_id() & 0xff)) & ~EXEC_IDS_MADE_UP;
}

#define STARTUP_LONGEST 20 /* in pauses */

/*
 * A service starts up from its first program on, for as long as no pause of CONFIG_STARTUP lies
 * between executions that are new, or known of the start-up only. Of a container that ran before
 * us it is over.
 */
static __always_inline void startup_begin(struct rote_scratch *s, struct rote_container *c,
					  struct rote_task_stamp *stamp)
{
	u32 is_newcomer = !stamp || (stamp->exec_id & EXEC_IDS_MADE_UP) == EXEC_ID_ENTERED;
	u64 pause = config_value(CONFIG_STARTUP);
	u64 now = bpf_ktime_get_ns();

	if (!c->startup_until) {
		c->startup_began = now;
		c->startup_until = is_newcomer ? now + pause : 1;
	}
	s->starting = !pause || now < c->startup_until;
}

static __always_inline void startup_go_on(struct rote_container *c)
{
	u64 pause = config_value(CONFIG_STARTUP);
	u64 until = bpf_ktime_get_ns() + pause;
	u64 last = c->startup_began + STARTUP_LONGEST * pause;

	c->startup_until = until < last ? until : last;
}

static __always_inline u32 exec_value(struct rote_scratch *s, struct rote_exec_key *key)
{
	struct rote_exec_known *known = exec_keys.lookup(key);
	u32 seen = s->starting ? SEEN_STARTUP : SEEN_STEADY;

	if (!known)
		return 0;
	if (known->flags & EXEC_FLAG_STARTUP) {
		s->startup_only = s->starting ? 1 : 2;
		if (!s->starting)
			return 0;
	}
	if (!(known->seen & seen))
		known->seen |= seen;
	return known->value;
}

#define SHAPE_ARGUMENTS 4
#define SHAPE_SHORT_OPTION 4
#define SHAPE_LONG_OPTION 8
#define SHAPE_OPERAND 159

/* Whether a letter is one of c, e, m, r, in either case: without branches, for the verifier's sake. */
static __always_inline u32 brings_code(u8 letter)
{
	u32 letters = 1 << ('c' & 31) | 1 << ('e' & 31) | 1 << ('m' & 31) | 1 << ('r' & 31);

	return (letter >> 6) & (letters >> (letter & 31)) & 1;
}

/* One argument of the shape, behind s->shape_argument. Returns 0 when no more of them count. */
static __always_inline u32 shape_step(struct rote_scratch *s, u64 end)
{
	u64 argument = s->shape_argument;
	u32 at = s->out & 127;
	u8 option[SHAPE_SHORT_OPTION + 1] = {};
	u32 is_option, is_long, most;
	long size;

	if (argument >= end)
		return 0;
	if (bpf_probe_read_user_str(option, sizeof(option), (void *)argument) < 0) {
		s->unreadable = 1;
		return 0;
	}
	is_option = (option[0] == '-') & (option[1] != 0);
	is_long = is_option & (option[1] == '-');
	most = is_option ? SHAPE_SHORT_OPTION : SHAPE_OPERAND;
	most = is_long ? SHAPE_LONG_OPTION : most;
	if (!is_option) {
		/* With any operand: what stands before it, and a mark. */
		bpf_probe_read_kernel(s->class_key.name, NAME_SIZE, s->key.name);
		s->class_key.name[at] = MARK_RANDOM;
		s->class_length = at + 1;
	}
	size = bpf_probe_read_user_str(&s->key.name[at], (most + 1) & (NAME_SIZE - 1),
				       (void *)argument);
	s->out = at + (size > 0 ? size - 1 : 0);
	if (!is_option)
		return 0;
	s->key.name[s->out & (NAME_SIZE - 1)] = ' ';
	s->out += 1;
	if (!is_long && (brings_code(option[1]) | brings_code(option[2]) | brings_code(option[3])))
		return 0;
	size = bpf_probe_read_user_str(s->name.name, NAME_SIZE, (void *)argument);
	s->shape_argument = argument + (size > 0 ? size : 0);
	return 1;
}

/* The shape of the arguments behind the one at s->shape_argument into s->key. Returns its length. */
static __always_inline u32 shape_load(struct rote_scratch *s)
{
	u64 end = arguments_end(s);
	long size;

	bpf_probe_read_kernel(s->key.name, NAME_SIZE, s->zero);
	size = bpf_probe_read_user_str(s->name.name, NAME_SIZE, (void *)s->shape_argument);
	s->shape_argument += size > 0 ? size : 0;
	s->out = 0;
	for (u32 i = 0; i < SHAPE_ARGUMENTS; i++) {
		FORGET();
		if (!shape_step(s, end))
			break;
	}
	return s->out;
}

/*
 * The node of the way in which `program`, an interpreter, is called, or NODE_NONE. The twin of
 * shape() in sensor/models/arguments.py.
 */
static __always_inline u32 shape_node(struct rote_scratch *s, struct rote_container *c, u32 program)
{
	struct rote_edge *edge;
	u32 length;

	s->class_length = 0;
	s->unreadable = 0;
	length = shape_load(s);
	FORGET();
	if (s->unreadable) {
		/* Else it would look as if it had no arguments. */
		COUNT_ERROR(c->container, ERROR_READ);
		return NODE_NONE;
	}
	s->key.parent = program;
	s->key.kind = LABEL_KIND_SHAPE;
	edge = edge_find(&s->key, length);
	if (edge)
		return edge->node;
	if (!s->class_length)
		return NODE_NONE;
	s->class_key.parent = program;
	s->class_key.kind = LABEL_KIND_SHAPE;
	edge = edge_find(&s->class_key, s->class_length);
	return edge ? edge->node : NODE_NONE;
}

/*
 * enum rote_exec_value of the execution in s->event, or 0. Only once it is complete it can be told
 * how an interpreter is called.
 */
static __always_inline u32 exec_known(struct rote_scratch *s, struct rote_container *c, u32 program,
				      const int is_complete)
{
	struct rote_exec_key key = {
		.model = c->model,
		.parent = s->event.program_node,
		.program = program,
		.origin = s->event.origin,
		.actor = s->event.actor,
	};
	u32 value;

	if (!program || !c->model)
		return 0;
	value = exec_value(s, &key);
	/* Sessions and probes may do what the service does; coming in is not that. */
	if (!value && key.actor != ACTOR_SERVICE && key.parent != NODE_RUNTIME) {
		key.actor = ACTOR_SERVICE;
		value = exec_value(s, &key);
	}
	if (is_complete && value == EXEC_SHAPE) {
		key.program = shape_node(s, c, program);
		value = key.program ? exec_value(s, &key) : 0;
		s->unknown_shape = !value;
	}
	return value;
}

/* Whether somebody is known to execute a program. */
static __always_inline u32 exec_elsewhere(struct rote_container *c, u32 program)
{
	struct rote_exec_key key = { .model = c->model, .parent = NODE_ANY, .program = program };

	return program && c->model && exec_keys.lookup(&key) != NULL;
}

/* A script: bprm holds its interpreter by now, so the script is judged by its name. */
static __always_inline void place_script(struct rote_scratch *s, u64 filename)
{
	u64 fs = FIELD(struct task_struct, bpf_get_current_task(), fs);
	char first = 0;

	bpf_probe_read_kernel(&first, 1, (void *)filename);
	place_path(&s->place[TEXT_PATH2],
		   fs + (first == '/' ? __builtin_offsetof(struct fs_struct, root) :
					__builtin_offsetof(struct fs_struct, pwd)));
	s->names[1] = filename;
	s->names_in_kernel = 1;
	s->event.operation = OPERATION_SCRIPT;
}

/* The first program of a container shows where its root is. */
static __always_inline void container_note_root(struct rote_scratch *s, struct rote_container *c)
{
	if (c->root_dentry || s->walk_end != WALK_END_ROOT)
		return;
	c->root_mount = s->top_mount;
	c->root_dentry = FIELD(struct mount, s->top_mount, mnt.mnt_root);
	c->root_super = FIELD(struct dentry, c->root_dentry, d_sb);
}

/* The container in which the current task executes something, or NULL. */
static __always_inline struct rote_container *exec_container(struct rote_task_stamp *stamp)
{
	u64 id = current_cgroup_id();
	struct rote_container *c;

	if (stamp) {
		id = stamp->container;
		return containers.lookup(&id);
	}
	c = containers.lookup(&id);
	if (!c)
		return NULL;
	id = c->container;
	c = containers.lookup(&id);
	/* A runtime that executes itself inside the cgroup is still outside the container. */
	if (c && !(c->flags & CONTAINER_FLAG_HOST_MOUNTS) &&
	    (u32)FIELD(struct mnt_namespace, task_mount_namespace(bpf_get_current_task()),
		       ns.inum) == config_value(CONFIG_HOST_MOUNTS))
		return NULL;
	return c;
}

static __always_inline void exec_note_caller(struct rote_scratch *s, struct rote_task_stamp *stamp)
{
	if (stamp && (stamp->exec_id & EXEC_IDS_MADE_UP) == EXEC_ID_ENTERED) {
		s->event.program_node = NODE_RUNTIME;
		s->event.caller_exec_id = stamp->exec_id;
		s->event.actor = stamp->actor;
	} else if (stamp) {
		s->event.program_node = stamp_program(stamp);
		s->event.caller_exec_id = stamp->exec_id;
		s->event.actor = stamp->actor;
	} else {
		s->event.program_node = NODE_RUNTIME;
		s->event.caller_exec_id = 0;
	}
}

/*
 * The file, a pointer of a known type: where its walk ends, its origin, and in s->node the node of
 * its path, if s->position is 0.
 */
static __always_inline void exec_note_file(struct rote_scratch *s, struct rote_container *c,
					   u64 file)
{
	u64 inode = LOAD(struct file, file, f_inode);
	u64 dentry = LOAD(struct file, file, f_path.dentry);
	u64 vfsmount = LOAD(struct file, file, f_path.mnt);

	s->place[TEXT_PATH].dentry = dentry;
	s->place[TEXT_PATH].vfsmount = vfsmount;
	s->recalled = place_recall(s, c, dentry, vfsmount, NODE_PROGRAMS);
	FORGET();
	if (s->recalled) {
		s->event.walk_end = WALK_END_ROOT;
	} else {
		walk(s, s->place[TEXT_PATH].dentry, s->place[TEXT_PATH].vfsmount);
		FORGET();
		container_note_root(s, c);
		s->event.walk_end = walk_judge_end(s, c);
		match_begin(s, NODE_PROGRAMS);
	}
	FORGET();
	s->place_known.left = MATCH_NOT_DONE;
	if (s->event.walk_end == WALK_END_ROOT && (!s->recalled || s->position == 1))
		match_program_path(s);
	FORGET();
	if (!s->recalled && s->event.walk_end == WALK_END_ROOT)
		place_remember(s);
	FORGET();
	s->event.origin = inode_origin(c, inode, 1);
	if (s->event.origin == ORIGIN_MEMORY)
		s->event.flags |= EVENT_FLAG_DELETED;
	if (LOAD(struct inode, inode, i_mode) & (S_ISUID | S_ISGID))
		s->event.flags |= EVENT_FLAG_SETUID;
}

#define ARGUMENTS_MAX 32

/* The arguments of a new program lie at the top of its stack, one behind the other. */
static __always_inline void arguments_find(struct rote_scratch *s, u64 bprm)
{
	u32 count = FIELD(struct linux_binprm, bprm, argc);

	s->argv_start = FIELD(struct linux_binprm, bprm, p);
	s->argv_end = s->argv_start;
	for (u32 i = 0; i < ARGUMENTS_MAX; i++) {
		FORGET();
		long size;

		if (i >= count)
			return;
		size = bpf_probe_read_user_str(s->text, ARGV_MAX, (void *)s->argv_end);
		if (size <= 0 || size >= ARGV_MAX)
			break;
		s->argv_end += size;
	}
	s->event.flags |= EVENT_FLAG_ARGV_TRUNCATED;
}

/*
 * An execution that the model does not know: what rules say of it, and else what kind of deviation
 * it is. Returns enum rote_exec_value, and s->known.
 */
static __always_inline u32 exec_by_rules(struct rote_scratch *s, struct rote_container *c,
					 u32 program)
{
	u32 length = s->applet_length;
	u32 allowed = 0;
	u32 value;

	if (length && (c->flags & CONTAINER_FLAG_RULES) && c->model)
		exec_name_marks(s, c, length, &allowed);
	FORGET();
	value = exec_by_rule(s, c);
	if (!value && allowed && s->event.walk_end == WALK_END_ROOT &&
	    s->event.detection != DETECTION_DENIED_PROGRAM)
		value = allowed & RULE_CLASS_EXEC_REPORT ? EXEC_REPORT : EXEC_KNOWN;
	/* What the service may do says nothing about who may come in. */
	if (s->event.actor != ACTOR_SERVICE && s->event.program_node == NODE_RUNTIME)
		value = 0;
	s->known = value != 0;
	if (!value)
		exec_detect(s, exec_elsewhere(c, program) != 0);
	return value;
}

/* By the tracepoint's argument its type is not known; the task runs that very file by now. */
static __always_inline u64 executed_file(u64 bprm)
{
#if TYPED
	return LOAD(struct mm_struct, LOAD(struct task_struct, CURRENT_TASK(), mm), exe_file);
#else
	return FIELD(struct linux_binprm, bprm, file);
#endif
}

/*
 * An execution that is complete: the task runs the new program, and has not begun. `bprm` is the
 * kernel's record of it. What is refused is killed.
 */
static __always_inline int exec_complete(void *ctx, u64 bprm, const int stack_moves)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct rote_task_stamp *stamp = stamp_of_current(pid);
	struct rote_container *c = exec_container(stamp);
	struct rote_task_stamp fresh = {};
	struct rote_scratch *s;
	u32 only_name = 0;
	u32 value;

	if (!c)
		return 0;
	s = scratch_take();
	if (!s) {
		COUNT_ERROR(c->container, ERROR_SCRATCH);
		if (refused_on_error(c))
			bpf_send_signal(SIGKILL);
		return 0;
	}
	if (stack_moves)
		arguments_find(s, bprm);
	FORGET();
	s->event.operation = OPERATION_EXEC;
	exec_note_caller(s, stamp);
	if (!stamp)
		s->event.actor = actor_of_newcomer(s, c, pid);
	startup_begin(s, c, stamp);
	FORGET();
	exec_note_file(s, c, executed_file(bprm));
	fresh.container = c->container;
	fresh.actor = s->event.actor;
	fresh.exec_id = exec_id();
	s->event.exec_id = fresh.exec_id;
	if (s->event.walk_end == WALK_END_ROOT)
		fresh.program = program_node(s);
	FORGET();
	value = exec_known(s, c, fresh.program, 1);
	s->known = value == EXEC_KNOWN || value == EXEC_REPORT;
	if (!s->known)
		value = exec_by_rules(s, c, fresh.program);
	if (value == EXEC_REPORT)
		s->event.flags |= EVENT_FLAG_REPORTED;
	if (s->starting && s->event.actor == ACTOR_SERVICE) {
		s->event.flags |= EVENT_FLAG_STARTUP;
		if (!s->known || s->startup_only)
			startup_go_on(c);
	}
	FORGET();
#if ATTACH == ATTACH_TRACEPOINT
	u64 filename = FIELD(struct linux_binprm, bprm, filename);

	if (filename != FIELD(struct linux_binprm, bprm, interp)) {
		place_script(s, filename);
		if (!name_is_known(s, c, 1)) {
			only_name = s->known;
			s->known = 0;
		}
	}
#endif
	if (tasks.update(&pid, &fresh)) {
		COUNT_ERROR(c->container, ERROR_TASK_MAP);
		if (refused_on_error(c))
			bpf_send_signal(SIGKILL);
	}
	FORGET();
	/* A script's name is judged in user space; its interpreter is known. */
	if (!s->known && !only_name)
		novelty_refuse(s, c, 0);
	if (!only_name && !(s->event.flags & EVENT_FLAG_REPORTED) &&
	    (s->known || novelty_ignored(s, c)))
		COUNT(c->container, known);
	else
		event_emit(ctx, s, c, EVENT_EXEC, 0);
	scratch_give(s);
	return 0;
}

#if HEAL && ATTACH == ATTACH_LSM
/*
 * bprm_committed_creds, since 4.17: the same moment, but for the stack, which is moved later. A
 * program on a tracepoint can be skipped by a kernel that needs stamp_heal(), an LSM program not.
 */
HOOK(bprm_committed_creds, struct linux_binprm *bprm)
{
	return exec_complete(ctx, (u64)bprm, 1);
}
#else
RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	return exec_complete(ctx, ctx->args[2], 0);
}
#endif

#if ATTACH != ATTACH_TRACEPOINT
/*
 * Whether it depends on the applet which kind of deviation this is, and on that what becomes of
 * it: exec_complete() knows.
 */
static __always_inline int is_left_to_applet(struct rote_scratch *s, struct rote_container *c,
					     u32 is_multicall)
{
	u32 both = 1U << DETECTION_UNKNOWN_PROGRAM | 1U << DETECTION_UNKNOWN_PARENT;

	if (s->event.detection != DETECTION_UNKNOWN_PROGRAM &&
	    s->event.detection != DETECTION_UNKNOWN_PARENT)
		return 0;
	return is_multicall && (c->prevent & both) != both;
}

/*
 * bprm_check_security, since 2.6: before anything of the caller is given up, once for a script and
 * again for its interpreter. Here an execution can be refused. What the arguments decide (the
 * applet, whether it is a health check) is not settled yet: exec_complete() does that, and kills.
 */
HOOK_EXEC(struct linux_binprm *bprm)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct rote_task_stamp *stamp = stamp_of_current(pid);
	struct rote_container *c = exec_container(stamp);
	struct rote_scratch *s;
	u32 is_script, refused, program, is_multicall;
	u16 start = 0;

	if (!c)
		return 0;
	bpf_probe_read_kernel(&start, sizeof(start),
			      (void *)bprm + __builtin_offsetof(struct linux_binprm, buf));
	is_script = start == 0x2123; /* "#!" */
	if (!is_script && !is_prevented(c))
		return 0;
	s = scratch_take();
	if (!s) {
		COUNT_ERROR(c->container, ERROR_SCRATCH);
		return refused_on_error(c) ? -EPERM : 0;
	}
	s->event.operation = is_script ? OPERATION_SCRIPT : OPERATION_EXEC;
	s->event.flags = EVENT_FLAG_BEFORE;
	s->event.exec_id = 0;
	exec_note_caller(s, stamp);
	if (!stamp)
		s->event.actor = !c->init_pid || (c->flags & CONTAINER_FLAG_NO_SESSIONS) ?
					 ACTOR_SERVICE :
					 ACTOR_SESSION;
	startup_begin(s, c, stamp);
	if (s->starting && s->event.actor == ACTOR_SERVICE)
		s->event.flags |= EVENT_FLAG_STARTUP;
	FORGET();
	exec_note_file(s, c, LOAD(struct linux_binprm, (u64)bprm, file));
	if (s->event.walk_end != WALK_END_ROOT || s->position)
		s->node = NODE_NONE;
	FORGET();
	program = s->node;
	is_multicall = s->node_flags & NODE_FLAG_MULTICALL;
	s->known = exec_known(s, c, program, 0) != 0;
	if (!s->known && !stamp && s->event.actor == ACTOR_SESSION) {
		s->event.actor = ACTOR_PROBE;
		s->known = exec_known(s, c, program, 0) != 0;
		if (!s->known)
			s->event.actor = ACTOR_SESSION;
	}
	FORGET();
	if (!s->known)
		exec_by_rules(s, c, program);
	FORGET();
	if (!scratch_kept(s)) {
		COUNT_ERROR(c->container, ERROR_SCRATCH);
		s->refused = refused_on_error(c);
	} else if (!s->known && !is_left_to_applet(s, c, program && is_multicall)) {
		novelty_refuse(s, c, 1);
		/* What goes on is told when it is complete; of a script that is its interpreter. */
		if (s->refused || (is_script && !novelty_ignored(s, c)))
			event_emit(ctx, s, c, EVENT_EXEC, 1);
	}
	refused = s->refused;
	scratch_give(s);
	return refused ? -EPERM : 0;
}
#endif
