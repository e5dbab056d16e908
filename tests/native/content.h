/* content.h - the expected bytes of the only file, beside it. */
#ifndef CONTENT_H
#define CONTENT_H

#include "rig.h"

enum { ROOM = 4 << 20 };

static u8 want[ROOM], got[ROOM];
static u64 want_size;

static MAYBE void start_with(u64 size, u64 capacity, u64 max_folio, struct pc_limits l)
{
	open_one(capacity, max_folio, size, ROOM, l);
	file->store.unit = l.write_unit;
	memset(want, 0, ROOM);
	memcpy(want, file->store.bytes, size);
	want_size = size;
}

static MAYBE void start(u64 size, u64 max_folio)
{
	start_with(size, 16 << 20, max_folio, limits_wide());
}

/* Write the expected bytes of the range, which the caller has set. */
static MAYBE void put_wanted(u64 pos, u64 len)
{
	want_size = pc_max(want_size, pos + len);
	EQUAL(file_write(file, pos, want + pos, len), 0);
}

static MAYBE void change(u64 pos, u64 len, u8 value)
{
	memset(want + pos, value, len);
	put_wanted(pos, len);
}

/* Write random bytes; none of them is 0. */
static MAYBE void put_random(u64 pos, u64 len)
{
	for (u64 k = 0; k < len; k++)
		want[pos + k] = (u8)(draw(255) + 1);
	put_wanted(pos, len);
}

static MAYBE void cut(u64 size)
{
	if (size < want_size)
		memset(want + size, 0, want_size - size);
	want_size = size;
	file_truncate(file, size);
	EQUAL(pc_inode_size(file->inode), size);
	EQUAL(pc_inode_remote_size(file->inode), size);
}

static MAYBE void compare(u64 pos, u64 len)
{
	u64 n = pos < want_size ? pc_min(len, want_size - pos) : 0;
	memset(got, 0xee, len);
	EQUAL(file_read(file, pos, got, len), n);
	for (u64 k = 0; k < n; k++)
		if (got[k] != want[pos + k])
			check_failed(__FILE__, __LINE__, "byte differs: position, cached", pos + k, got[k]);
}

/* All of it is saved. */
static MAYBE void synced(void)
{
	const struct store *s = &file->store;
	bool durable = file->inode->limits.durable_writes;
	EQUAL(file_sync(file), 0);
	EQUAL(s->size, want_size);
	EQUAL(durable ? s->size : s->stable_size, want_size);
	for (u64 k = 0; k < want_size; k++)
		if (s->bytes[k] != want[k] || (!durable && s->stable[k] != want[k]))
			check_failed(__FILE__, __LINE__, "stored byte differs: position, stored", k, s->bytes[k]);
}

#endif
