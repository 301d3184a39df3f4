/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Every map: key, value, who writes, who reads. U: user space, K: kernel.
 *
 * State maps (containers, tasks) are plain hashes: a full one is an error that is counted, never
 * a silent loss. LRU maps are caches: losing an entry costs a walk or a question, nothing else.
 */
#ifndef ROTE_MAPS_H
#define ROTE_MAPS_H

/* Records for user space. K writes, U reads. */
BPF_RINGBUF_OUTPUT(events, RING_PAGES);

/* cgroup id → container. K writes (cgroup_mkdir, first exec), U writes (identity), K reads. */
BPF_HASH(containers, u64, struct rote_container, 16384);

/*
 * Executions that nobody saw have made-up ids. ADOPTED: of a process that ran before us; ENTERED:
 * of one that was moved into a plain cgroup, and so is still outside until it executes something.
 */
#define EXEC_ID_ADOPTED (1ULL << 63)
#define EXEC_ID_ENTERED (1ULL << 62)
#define EXEC_IDS_MADE_UP (EXEC_ID_ADOPTED | EXEC_ID_ENTERED)

/*
 * Containers that were created but do not run yet: their model, so that they are judged from their
 * first instruction. U writes, K reads; a cache: user space names the model again when it runs.
 */
BPF_TABLE("lru_hash", struct rote_container_id, struct rote_expected, expected, 4096);

/* pid → stamp. K writes (fork, exec, exit), U writes (processes older than us), K reads. */
BPF_HASH(tasks, u32, struct rote_task_stamp, 131072);

/*
 * Execution → program, for programs that had no number when they were executed. By execution and
 * not by pid: by the time user space answers, the process may run something else. U writes,
 * K reads; a cache.
 */
BPF_TABLE("lru_hash", u64, u32, resolved, 65536);

/* cgroup id of the container → what was counted. K and U create, K adds, U reads. */
BPF_HASH(counts, u64, struct rote_counters, 16384);

/* The path trie: programs and written paths of all models. U writes, K reads. */
BPF_F_TABLE("hash", struct rote_edge_key, struct rote_edge, edges, 1048576, BPF_F_NO_PREALLOC);

/* The edges whose names are shorter than 24 bytes. */
BPF_F_TABLE("hash", struct rote_short_edge_key, struct rote_edge, short_edges, 1048576,
	    BPF_F_NO_PREALLOC);

/* Directories that were walked. K writes and reads; a cache. */
BPF_TABLE("lru_hash", struct rote_place_key, struct rote_place_known, places, 16384);

/* Known executions. U writes, K reads and marks what it saw. */
BPF_F_TABLE("hash", struct rote_exec_key, struct rote_exec_known, exec_keys, 524288,
	    BPF_F_NO_PREALLOC);

/* Known changes. U writes, K reads and marks what it saw. */
BPF_F_TABLE("hash", struct rote_write_key, struct rote_write_value, write_keys, 1048576,
	    BPF_F_NO_PREALLOC);

/*
 * Answers for names that could not be walked: until when (CLOCK_MONOTONIC, ns) they hold, since a
 * symbolic link on the way may change. U writes, K reads; a cache.
 */
BPF_TABLE("lru_hash", struct rote_name_key, u64, names, 32768);

/* Health checks: container and argv. U writes, K reads. */
BPF_HASH(probes, struct rote_probe_key, u32, 4096);

/* Open files that were judged when they were opened. K writes and reads; a cache. */
BPF_TABLE("lru_hash", struct rote_file_key, u32, judged, 65536);

/* Rote's own maps (id) and programs (id | OWN_PROGRAM). U writes, K reads. */
BPF_HASH(own_objects, u32, u32, 512);

/* How to read each system call (tracepoint attachment). U writes, K reads. */
BPF_ARRAY(syscalls, struct rote_syscall_entry, 1024);

/* enum rote_config_key → value. U writes, K reads. */
BPF_ARRAY(settings, u64, 8);

/* Character classes of bytes, for component_canonical(). U writes, K reads. */
struct rote_byte_table {
	u8 kind[256];
};
BPF_ARRAY(bytes, struct rote_byte_table, 1);

/* What the self-test read by member access. K writes, U reads. */
BPF_ARRAY(selftests, struct rote_selftest, 1);

#endif /* ROTE_MAPS_H */
