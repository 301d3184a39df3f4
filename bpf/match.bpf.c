/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Is it known: the walk down the path trie, and the canonical form of a component.
 *
 * The twin of sensor/models/trie.py (PathTrie.walk) and sensor/paths.py (canonical); a property
 * test holds them together. Keys hold whole component names, zero padded, so equality is exact
 * and there is no collision to craft.
 */

#define CLASS_NAME_MAX 128
#define MARK_NUMBER 1
#define MARK_RANDOM 2
#define HEX_MIN 8
#define RANDOM_MIN 6
#define RANDOM_CHANGES 3
#define RANDOM_LENGTH 24
#define RANDOM_LETTERS 3

/* Bits of bytes[0].kind, filled by sensor/kernel/live.py from sensor.paths. */
#define BYTE_LOWER 1
#define BYTE_UPPER 2
#define BYTE_DIGIT 4
#define BYTE_ALNUM 7
#define BYTE_NOT_LOWER_HEX 8
#define BYTE_NOT_UPPER_HEX 16
#define BYTE_MARK 32
#define BYTE_TEMPORARY 64 /* what mkstemp of the C library makes up, and tempfile of Python */
#define BYTE_TEMPORARY_LONG 128

/*
 * One loop does both jobs, a component or a byte of its canonical form at a step: a loop inside a
 * loop is more than the verifier follows. A path whose class components need more steps than this
 * is not known.
 */
#define MATCH_STEPS 160
#define STATE_COMPONENT 0
#define STATE_BYTE 1

static __always_inline void token_begin(struct rote_scratch *s)
{
	s->token_start = s->out;
	s->token_length = 0;
	s->token_changes = 0;
	s->token_kinds = 0;
	s->token_previous = 0;
	s->token_not_hex = 0;
	s->token_first = 0;
	s->token_letters = 0;
}

static __always_inline int token_is_random(struct rote_scratch *s)
{
	u32 length = s->token_length;

	if (s->token_first == BYTE_DIGIT && s->token_kinds != BYTE_DIGIT &&
	    (s->token_letters <= RANDOM_LETTERS || s->token_changes > 1))
		return 1;
	if (length < RANDOM_MIN)
		return 0;
	if (length >= RANDOM_LENGTH && s->token_kinds != BYTE_DIGIT)
		return 1;
	if (s->token_changes >= RANDOM_CHANGES)
		return 1;
	return length >= HEX_MIN && s->token_not_hex != (BYTE_NOT_LOWER_HEX | BYTE_NOT_UPPER_HEX) &&
	       (s->token_kinds & BYTE_DIGIT) && s->token_kinds != BYTE_DIGIT;
}

/* One byte of s->key.name into s->canonical. Returns 1 at the end, -1: no class form. */
static __always_inline int component_canonical_step(struct rote_scratch *s,
						    struct rote_byte_table *table)
{
	u32 in = s->in;
	u32 out;
	u8 byte;
	u32 kind;

	if (in > CLASS_NAME_MAX)
		return -1;
	byte = s->key.name[in & (NAME_SIZE - 1)];
	s->in = in + 1;
	kind = table->kind[byte];
	if (kind & BYTE_ALNUM) {
		u32 class = kind & BYTE_ALNUM;
		u32 previous = s->token_previous;

		s->token_length += 1;
		if (!previous)
			s->token_first = class;
		s->token_letters += class != BYTE_DIGIT;
		s->token_changes += previous && previous != class;
		s->token_kinds |= class;
		s->token_not_hex |= kind & (BYTE_NOT_LOWER_HEX | BYTE_NOT_UPPER_HEX);
		s->token_previous = class;
		if (class == BYTE_DIGIT) {
			s->is_volatile = 1;
			if (previous == BYTE_DIGIT)
				return 0;
			byte = MARK_NUMBER;
		}
	} else {
		if (token_is_random(s)) {
			out = s->token_start;
			s->canonical[out & (NAME_SIZE - 1)] = MARK_RANDOM;
			s->out = out + 1;
			s->is_volatile = 1;
		}
		if (!byte)
			return 1;
		if (kind & BYTE_MARK)
			return -1;
	}
	out = s->out;
	s->canonical[out & (NAME_SIZE - 1)] = byte;
	s->out = out + 1;
	if (!(kind & BYTE_ALNUM))
		token_begin(s);
	return 0;
}

/*
 * The class label, zero padded, into s->class_key. What a random token replaced may still stand
 * behind its end.
 */
static __always_inline void class_key_finish(struct rote_scratch *s)
{
	bpf_probe_read_kernel(&s->canonical[s->out & (NAME_SIZE - 1)], NAME_SIZE, s->zero);
	bpf_probe_read_kernel(s->class_key.name, NAME_SIZE, s->canonical);
	s->class_key.kind = LABEL_KIND_CLASS;
}

/*
 * Names of up to SHORT_NAME_MAX bytes have a map of their own. With two zeros behind them, so that
 * a name that was changed and cut off while it was read is none of them.
 */
#define SHORT_NAME_SIZE 24
#define SHORT_NAME_MAX 22

static __always_inline struct rote_edge *edge_find(struct rote_edge_key *key, u32 length)
{
	if (length <= SHORT_NAME_MAX)
		return short_edges.lookup((struct rote_short_edge_key *)key);
	return edges.lookup(key);
}

static __always_inline void short_name_clear(struct rote_edge_key *key)
{
	u64 *words = (u64 *)key->name;

	words[0] = 0;
	words[1] = 0;
	words[2] = 0;
}

/* Its name, zero padded, into s->key. Returns its length. */
static __always_inline u32 key_load_component(struct rote_scratch *s, u64 dentry)
{
	struct {
		u32 hash;
		u32 length;
		u64 name;
	} name = {}; /* struct qstr, in one go */

	bpf_probe_read_kernel(&name, sizeof(name),
			      (void *)(dentry + __builtin_offsetof(struct dentry, d_name)));
	if (name.length <= SHORT_NAME_MAX) {
		short_name_clear(&s->key);
		bpf_probe_read_kernel_str(s->key.name, SHORT_NAME_SIZE, (void *)name.name);
	} else {
		bpf_probe_read_kernel(s->key.name, NAME_SIZE, s->zero);
		bpf_probe_read_kernel_str(s->key.name, NAME_SIZE, (void *)name.name);
	}
	return name.length;
}

static __always_inline void match_take(struct rote_scratch *s, struct rote_edge *edge)
{
	s->node = edge->node;
	s->node_flags = edge->flags;
	s->state = STATE_COMPONENT;
}

/* The `*` edge out of s->node, or NULL. */
static __always_inline struct rote_edge *match_any(struct rote_scratch *s)
{
	if (!(s->node_flags & NODE_FLAG_HAS_ANY))
		return NULL;
	short_name_clear(&s->class_key);
	s->class_key.parent = s->node;
	s->class_key.kind = LABEL_KIND_ANY;
	return edge_find(&s->class_key, 0);
}

#define MATCH_NOT_DONE 0xffffffff

/* Where the path's directory is, as far as the match has come. */
static __always_inline void match_note_directory(struct rote_scratch *s)
{
	s->place_known.node = s->node;
	s->place_known.node_flags = s->node_flags;
	s->place_known.left = s->position - 1;
}

/* The root of a trie: where a match begins that nothing is known of yet. */
static __always_inline void match_begin(struct rote_scratch *s, u32 root)
{
	s->node = root;
	s->node_flags = NODE_FLAG_HAS_CLASS | NODE_FLAG_HAS_ANY | NODE_FLAG_HAS_LAST;
	s->position = s->depth;
}

/*
 * Match the s->position components that are left in s->dentries, from s->node on. Afterwards
 * s->node is where it ended and s->position how many components were left over: 0 for a match of
 * the whole path.
 */
static __always_inline void match_path(struct rote_scratch *s)
{
	int zero = 0;
	struct rote_byte_table *table = bytes.lookup(&zero);

	s->state = STATE_COMPONENT;
	s->place_known.left = MATCH_NOT_DONE;
	if (!table)
		return;
	for (int step = 0; step < MATCH_STEPS; step++) {
		struct rote_edge *edge;
		int end;

		FORGET();
		if (s->state == STATE_COMPONENT) {
			u32 left = s->position;
			u32 length;

			if (!left)
				return;
			if (left == 1)
				match_note_directory(s);
			left -= 1;
			length = key_load_component(s, s->dentries[left & (DEPTH_MAX - 1)]);
			s->key.parent = s->node;
			s->key.kind = LABEL_KIND_EXACT;
			edge = edge_find(&s->key, length);
			if (edge) {
				s->position = left;
				match_take(s, edge);
				continue;
			}
			if (s->node_flags & NODE_FLAG_HAS_CLASS) {
				s->state = STATE_BYTE;
				s->in = 0;
				s->out = 0;
				s->is_volatile = 0;
				token_begin(s);
				continue;
			}
			edge = match_any(s);
		} else {
			end = component_canonical_step(s, table);
			if (!end)
				continue;
			edge = NULL;
			if (end > 0 && s->is_volatile) {
				class_key_finish(s);
				s->class_key.parent = s->node;
				edge = edge_find(&s->class_key, s->out);
			}
			if (!edge)
				edge = match_any(s);
		}
		if (!edge) {
			if (s->position > 1)
				match_note_directory(s);
			return;
		}
		s->position -= 1;
		match_take(s, edge);
	}
}

/* The same without classes and "*": program paths have neither. Returns the node or NODE_NONE. */
static __always_inline u32 match_program_path(struct rote_scratch *s)
{
	for (int step = 0; step < DEPTH_MAX; step++) {
		FORGET();
		struct rote_edge *edge;
		u32 left = s->position;

		u32 length;

		if (!left)
			return s->node;
		if (left == 1)
			match_note_directory(s);
		left -= 1;
		length = key_load_component(s, s->dentries[left & (DEPTH_MAX - 1)]);
		s->key.parent = s->node;
		s->key.kind = LABEL_KIND_EXACT;
		edge = edge_find(&s->key, length);
		if (!edge) {
			if (left)
				match_note_directory(s);
			return NODE_NONE;
		}
		s->position = left;
		s->node = edge->node;
		s->node_flags = edge->flags;
	}
	return s->position ? NODE_NONE : s->node;
}
