/* SPDX-License-Identifier: Apache-2.0
 *
 * Part of gate.c: texts, and JSON: only as much as it takes to find a place in it.
 */

struct text {
	char *data;
	size_t size, room;
};

static void put(struct text *text, const char *data, size_t size)
{
	if (text->size + size + 1 > text->room) {
		text->room = (text->size + size + 1) * 2;
		text->data = realloc(text->data, text->room);
		if (!text->data)
			abort();
	}
	memcpy(text->data + text->size, data, size);
	text->size += size;
	text->data[text->size] = 0;
}

static void puts_to(struct text *text, const char *data)
{
	put(text, data, strlen(data));
}

static void put_escaped(struct text *text, const char *data)
{
	for (; *data; data++) {
		unsigned char c = (unsigned char)*data;
		char escaped[8];

		if (c == '"' || c == '\\')
			snprintf(escaped, sizeof(escaped), "\\%c", c);
		else if (c < 0x20)
			snprintf(escaped, sizeof(escaped), "\\u%04x", c);
		else
			snprintf(escaped, sizeof(escaped), "%c", c);
		puts_to(text, escaped);
	}
}

/* The whole of a descriptor; false: unreadable, or more than there may be. */
static bool read_all(int fd, struct text *text, size_t max)
{
	char part[16384];
	ssize_t count;

	for (;;) {
		count = read(fd, part, sizeof(part));
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return false;
		if (!count) {
			put(text, "", 0);
			return true;
		}
		if (text->size + (size_t)count > max) {
			errno = EFBIG;
			return false;
		}
		put(text, part, (size_t)count);
	}
}

static bool read_file(const char *path, struct text *text, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool good;

	if (fd < 0)
		return false;
	good = read_all(fd, text, max);
	close(fd);
	return good;
}

struct member {
	const char *key, *key_end, *value, *end;
};

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* Past a string that begins here; NULL: it does not end. */
static const char *skip_string(const char *at)
{
	if (*at != '"')
		return NULL;
	for (at++; *at && *at != '"'; at++)
		if (*at == '\\' && !*++at)
			return NULL;
	return *at ? at + 1 : NULL;
}

static const char *skip_value(const char *at, int depth)
{
	char close = *at == '{' ? '}' : ']';
	bool object = *at == '{';

	if (*at == '"')
		return skip_string(at);
	if (*at != '{' && *at != '[') {
		size_t size = strcspn(at, ",]} \t\r\n");

		return size ? at + size : NULL;
	}
	if (depth > DEPTH_MAX)
		return NULL;
	at = skip_space(at + 1);
	if (*at == close)
		return at + 1;
	for (;;) {
		if (object) {
			at = skip_string(skip_space(at));
			if (!at)
				return NULL;
			at = skip_space(at);
			if (*at++ != ':')
				return NULL;
		}
		at = skip_value(skip_space(at), depth + 1);
		if (!at)
			return NULL;
		at = skip_space(at);
		if (*at == close)
			return at + 1;
		if (*at++ != ',')
			return NULL;
	}
}

/* The member of an object that was skipped whole before, and so is well; false: there is none. */
static bool find_member(const char *object, const char *name, struct member *found)
{
	const char *at = skip_space(object + 1);

	while (*at == '"') {
		found->key = at + 1;
		at = skip_string(at);
		found->key_end = at - 1;
		at = skip_space(skip_space(at) + 1);
		found->value = at;
		at = found->end = skip_value(at, 0);
		if ((size_t)(found->key_end - found->key) == strlen(name) &&
		    !memcmp(found->key, name, strlen(name)))
			return true;
		at = skip_space(at);
		if (*at == ',')
			at = skip_space(at + 1);
	}
	return false;
}

/* A string without its escapes; false: it is none, or does not fit. */
static bool unescape(const char *at, char *out, size_t room)
{
	if (*at++ != '"')
		return false;
	for (; *at != '"'; at++) {
		char c = *at;

		if (c == '\\') {
			unsigned int code;

			c = *++at;
			if (c == 'u') {
				if (sscanf(at + 1, "%4x", &code) != 1 || !code || code > 0x7f)
					return false;
				c = (char)code;
				at += 4;
			} else if (!strchr("\"\\/", c)) {
				return false;
			}
		}
		if (--room < 1)
			return false;
		*out++ = c;
	}
	*out = 0;
	return true;
}

static bool get_string(const char *object, const char *name, char *out, size_t room)
{
	struct member found;

	*out = 0;
	return find_member(object, name, &found) && unescape(found.value, out, room);
}

/* The one object that a document consists of; NULL: it is something else. */
static const char *document(const struct text *text)
{
	const char *start, *end;

	if (!text->data || strlen(text->data) != text->size)
		return NULL;
	start = skip_space(text->data);
	if (*start != '{')
		return NULL;
	end = skip_value(start, 0);
	return end && !*skip_space(end) ? start : NULL;
}
