/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Reads what user space knows of itself, so that the loader can tell whether the structures of
 * this kernel are read at the right places. Run once, through BPF_PROG_TEST_RUN.
 */
RAW_TRACEPOINT_PROBE(task_rename)
{
	int zero = 0;
	struct rote_selftest *result;
	u64 task = bpf_get_current_task();
	u64 pid = FIELD(struct task_struct, task, tgid);

	if (pid != config_value(CONFIG_SELF_PID))
		return 0;
	result = selftests.lookup(&zero);
	if (!result)
		return 0;
	result->pid = pid;
	result->inode =
		FIELD(struct inode, FIELD(struct file, task_program_file(task), f_inode), i_ino);
	result->cgroup_id = current_cgroup_id();
	result->mount_namespace =
		(u32)FIELD(struct mnt_namespace, task_mount_namespace(task), ns.inum);
	return 0;
}
