/* A file with memory that views may store to, for the tests of views. */
#ifndef PC_TEST_VIEWS_H
#define PC_TEST_VIEWS_H

#include "rig.h"

enum { ROOM = 1 << 20 };

static inline void start_with(u64 size, u64 capacity, u64 max_folio, struct pc_limits l)
{
	open_one(capacity, max_folio, size, ROOM, l);
	file->store.unit = l.write_unit;
}

/* All of it is cached, in the largest possible folios. */
static inline void start(u64 size, u64 max_folio)
{
	start_with(size, 4 << 20, max_folio, limits_wide());
	u8 *bytes = malloc(size + 1);
	EQUAL(file_read(file, 0, bytes, size), size);
	free(bytes);
}

static inline struct pc_pin pin(u64 pos, u64 len)
{
	struct pc_pin p;
	lock_inode(file, PC_EXCLUSIVE);
	EQUAL(pin_to_store(file, pos, len, &p), 0);
	pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
	EQUAL(p.len, len);
	return p;
}

static inline void store(const struct pc_pin *p, u8 value)
{
	u8 *bytes = malloc(p->len);
	memset(bytes, value, p->len);
	view_store(p->memory, bytes, p->len);
	free(bytes);
}

static inline void discard(u64 pos, u64 end, u64 lost)
{
	u64 ranges[64], sum = 0;
	size_t n = file_discard(file, pos, end, ranges, 32);
	for (size_t k = 0; k < n; k++)
		sum += ranges[2 * k + 1];
	EQUAL(sum, lost);
}

#endif
