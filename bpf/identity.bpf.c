/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Whose task is it: cgroups, and the stamps of tasks.
 */

#define ID_DIGITS 64
#define NOBODY ((u64)0)

static __always_inline u64 cgroup_id_of(u64 cgroup)
{
	return FIELD(struct kernfs_node, FIELD(struct cgroup, cgroup, kn), id);
}

static __always_inline int cgroup_is_ours(u64 cgroup)
{
	u64 root = FIELD(struct cgroup, cgroup, root);

	return (u32)FIELD(struct cgroup_root, root, hierarchy_id) == CGROUP_HIERARCHY;
}

static __always_inline u64 current_cgroup_id(void)
{
#if CGROUP_SUBSYS < 0
	return bpf_get_current_cgroup_id();
#else
	u64 set = FIELD(struct task_struct, bpf_get_current_task(), cgroups);

	return cgroup_id_of(FIELD(struct cgroup_subsys_state,
				  FIELD(struct css_set, set, subsys[CGROUP_SUBSYS]), cgroup));
#endif
}

#if HEAL
#define HEAL_GENERATIONS 8

/*
 * The stamp that a process should have. Since 7.0 a task can be preempted inside a program on a
 * tracepoint, and the kernel skips that program for whoever comes to the same tracepoint on that
 * processor meanwhile: a fork goes unseen now and then. Its child lives in a container's cgroup
 * and has an ancestor with a stamp. What the runtime starts has none.
 */
static __always_inline struct rote_task_stamp *stamp_heal(u32 pid)
{
	u64 id = current_cgroup_id();
	u64 task = (u64)bpf_get_current_task();

	if (!containers.lookup(&id))
		return NULL;
	for (int i = 0; i < HEAL_GENERATIONS; i++) {
		struct rote_task_stamp *above;
		struct rote_task_stamp copy;
		u32 parent;

		task = FIELD(struct task_struct, task, real_parent);
		parent = FIELD(struct task_struct, task, tgid);
		above = tasks.lookup(&parent);
		if (!above)
			continue;
		copy = *above;
		if (tasks.update(&pid, &copy)) {
			COUNT_ERROR(copy.container, ERROR_TASK_MAP);
			return above; /* no room: judged all the same */
		}
		return tasks.lookup(&pid);
	}
	return NULL;
}
#endif

/* The stamp of a process, or NULL. */
static __always_inline struct rote_task_stamp *stamp_of_current(u32 pid)
{
	struct rote_task_stamp *stamp = tasks.lookup(&pid);

#if HEAL
	if (!stamp)
		stamp = stamp_heal(pid);
#endif
	return stamp;
}

/*
 * The stamp of the acting process, or NULL for everybody outside containers: the only look-up.
 * Who was moved into a plain cgroup is outside until it executes something.
 */
static __always_inline struct rote_task_stamp *task_stamp(void)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct rote_task_stamp *stamp = stamp_of_current(pid);

	if (!stamp || (stamp->exec_id & EXEC_IDS_MADE_UP) == EXEC_ID_ENTERED)
		return NULL;
	return stamp;
}

static __always_inline int is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/*
 * Whether a cgroup's name ends in a container id, as every runtime writes it: 64 hex digits, bare
 * (cgroupfs driver) or as "<runtime>-<id>.scope" (systemd driver); it is left in s->id. Podman's
 * monitor has the same id behind "libpod-conmon-" and is no container.
 */
static __always_inline int name_is_container(struct rote_scratch *s, u64 name)
{
	long size = bpf_probe_read_kernel_str(s->name.name, NAME_SIZE, (void *)name) - 1;
	u32 first;

	if (size < ID_DIGITS || size >= NAME_SIZE - 1)
		return 0;
	first = size - ID_DIGITS;
	if (size >= ID_DIGITS + 6 && s->name.name[(size - 6) & (NAME_SIZE - 1)] == '.' &&
	    s->name.name[(size - 1) & (NAME_SIZE - 1)] == 'e')
		first -= 6;
	if (first && s->name.name[(first - 1) & (NAME_SIZE - 1)] != '-')
		return 0;
	if (first >= 7 && s->name.name[(first - 2) & (NAME_SIZE - 1)] == 'n' &&
	    s->name.name[(first - 3) & (NAME_SIZE - 1)] == 'o' &&
	    s->name.name[(first - 4) & (NAME_SIZE - 1)] == 'm')
		return 0;
	for (u32 i = 0; i < ID_DIGITS; i++) {
		FORGET();
		u32 at = first + i;

		OPAQUE(at);
		if (!is_hex(s->name.name[at & (NAME_SIZE - 1)]))
			return 0;
	}
	bpf_probe_read_kernel(&s->id, sizeof(s->id), &s->name.name[first & (NAME_SIZE - 1)]);
	return 1;
}

static __always_inline void cgroup_report(struct rote_scratch *s, u64 id, u32 kind, u64 path)
{
	long size = bpf_probe_read_kernel_str(s->text, TEXT_PATH_MAX, (void *)path) - 1;
	u32 length = size > 0 ? size : 0;

	s->event.header.kind = kind;
	s->event.header.ktime_ns = bpf_ktime_get_ns();
	s->event.header.cgroup_id = id;
	s->event.pid = bpf_get_current_pid_tgid() >> 32;
	s->event.operation = 0;
	s->event.actor = 0;
	for (u32 i = 0; i < TEXT_SEGMENTS; i++)
		s->event.text_end[i] = length;
	if (!scratch_kept(s)) {
		COUNT_ERROR(id, ERROR_SCRATCH);
		return;
	}
	OPAQUE(length);
	length &= 2 * TEXT_PATH_MAX - 1;
	size = length + sizeof(struct rote_event);
	s->event.header.size = size;
	if (events.ringbuf_output(&s->event, size, 0))
		COUNT(id, lost);
}

/*
 * A cgroup is made before the container's first task enters it, so here nothing can be missed.
 * Cgroups below a container's are that container's too.
 */
RAW_TRACEPOINT_PROBE(cgroup_mkdir)
{
	u64 cgroup = ctx->args[0];
	u64 path = ctx->args[1];
	struct rote_scratch *s;
	struct rote_container *above;
	struct rote_container fresh = {};
	struct rote_counters none = {};
	u64 id, parent;

	if (!cgroup_is_ours(cgroup))
		return 0;
	id = cgroup_id_of(cgroup);
	parent = cgroup_id_of(FIELD(struct cgroup, cgroup, self.parent));
	above = containers.lookup(&parent);
	if (above) {
		fresh.container = above->container;
		fresh.flags = above->flags | CONTAINER_FLAG_ALIAS;
		if (containers.update(&id, &fresh))
			COUNT_ERROR(fresh.container, ERROR_CONTAINER_MAP);
		return 0;
	}
	if (!config_value(CONFIG_DISCOVER))
		return 0;
	s = scratch_take();
	if (!s) {
		COUNT_ERROR(NOBODY, ERROR_SCRATCH);
		return 0;
	}
	if (name_is_container(s,
			      FIELD(struct kernfs_node, FIELD(struct cgroup, cgroup, kn), name))) {
		struct rote_expected *known = expected.lookup(&s->id);

		fresh.container = id;
		if (known) {
			fresh.model = known->model;
			fresh.flags = known->flags;
			fresh.prevent = known->prevent;
			fresh.ignored = known->ignored;
		}
		counts.update(&id, &none);
		if (containers.update(&id, &fresh))
			COUNT_ERROR(NOBODY, ERROR_CONTAINER_MAP);
		else
			cgroup_report(s, id, EVENT_CGROUP_CREATED, path);
	}
	scratch_give(s);
	return 0;
}

RAW_TRACEPOINT_PROBE(cgroup_rmdir)
{
	u64 cgroup = ctx->args[0];
	u64 id;
	struct rote_container *c;
	struct rote_scratch *s;
	u32 flags;

	if (!cgroup_is_ours(cgroup))
		return 0;
	id = cgroup_id_of(cgroup);
	c = containers.lookup(&id);
	if (!c)
		return 0;
	flags = c->flags;
	containers.delete(&id);
	if (flags & CONTAINER_FLAG_ALIAS)
		return 0;
	s = scratch_take();
	if (!s) {
		COUNT_ERROR(NOBODY, ERROR_SCRATCH);
		return 0;
	}
	cgroup_report(s, id, EVENT_CGROUP_REMOVED, ctx->args[1]);
	scratch_give(s);
	return 0;
}

/*
 * Plain cgroups only: whoever is moved in belongs to the service at once. Into a container's
 * cgroup the runtime moves its own helper first; that one is stamped at its exec.
 */
RAW_TRACEPOINT_PROBE(cgroup_attach_task)
{
	u64 cgroup = ctx->args[0];
	u64 task = ctx->args[2];
	struct rote_task_stamp stamp = {};
	struct rote_container *c;
	u64 id;
	u32 pid;

	if (!cgroup_is_ours(cgroup))
		return 0;
	id = cgroup_id_of(cgroup);
	c = containers.lookup(&id);
	if (!c || !(c->flags & CONTAINER_FLAG_NO_SESSIONS))
		return 0;
	pid = FIELD(struct task_struct, task, tgid);
	if (tasks.lookup(&pid))
		return 0;
	stamp.container = c->container;
	stamp.exec_id = EXEC_ID_ENTERED | pid;
	stamp.actor = ACTOR_SERVICE;
	if (tasks.update(&pid, &stamp))
		COUNT_ERROR(stamp.container, ERROR_TASK_MAP);
	return 0;
}

/* A stamp is inherited; threads share their process's. */
RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	u64 child = ctx->args[1];
	u32 parent_pid = bpf_get_current_pid_tgid() >> 32;
	struct rote_task_stamp *stamp = stamp_of_current(parent_pid);
	struct rote_task_stamp copy;
	u32 pid;

	if (!HEAL && !stamp)
		return 0;
	pid = FIELD(struct task_struct, child, tgid);
	if (pid == parent_pid)
		return 0;
	if (!stamp) {
		/* Of a process that had this number before, whose end went unseen. */
		tasks.delete(&pid);
		return 0;
	}
	copy = *stamp;
	if (tasks.update(&pid, &copy)) {
		struct rote_container *c = containers.lookup(&copy.container);

		COUNT_ERROR(copy.container, ERROR_TASK_MAP);
		/* The child would be nobody's. A fork cannot be refused here: its maker goes. */
		if (c && refused_on_error(c))
			bpf_send_signal(SIGKILL);
	}
	return 0;
}

/* The last thread of a process takes its stamp along. */
RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u64 task = ctx->args[0];
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u64 signal;

	if (!tasks.lookup(&pid))
		return 0;
	signal = FIELD(struct task_struct, task, signal);
	if ((s32)FIELD(struct signal_struct, signal, live.counter) <= 0)
		tasks.delete(&pid);
	return 0;
}
