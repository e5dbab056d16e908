/*
 * hit_instructions.c - goal P7: the cost of a 4 KiB hit above its memcpy, in instructions.
 *
 *   hit_instructions hit|memcpy|none <hits> <folio bytes>
 *
 * `make instructions` runs it under valgrind with N and 2N hits; the difference of the counts, less that of an equal
 * loop with a bare memcpy, is exact. Release flags: no debug checks, no sync points. Random pages of 32 MiB.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/io.h"

enum { PAGE = 4096, PAGES = 8192 };

static u8 buffer[PAGE];

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "hit";
	u64 hits = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000, folio = argc > 3 ? strtoull(argv[3], NULL, 10) : PAGE;
	struct pc_limits l = {.max_read = 1 << 20, .max_write = 1 << 20, .max_vectors = 64};
	struct pc_cache *c;
	struct pc_volume *v;
	struct pc_inode *i;
	struct pc_need need = {0};
	if (pc_cache_create((u64)PAGES * PAGE * 2, PAGE, folio, &c) || pc_volume_create(c, 4, false, &v) ||
	    pc_inode_create(v, (u64)PAGES * PAGE, &l, &i))
		return 1;
	for (u64 pos = 0; pos < (u64)PAGES * PAGE; pos += folio) {
		struct pc_request *r;
		struct pc_part parts[64];
		size_t n;
		u64 at;
		if (pc_fill_begin(i, pos, folio, &need, &r) || pc_call_next(r, &at, parts, 64, &n) != 1)
			return 1;
		pc_fill_answer(r, (i64)folio);
		pc_request_settle(r);
	}
	for (u32 k = 0; k < 4 * PAGES; k++) /* every access counter is full, as it is in a warm cache */
		pc_read(i, (u64)(k % PAGES) * PAGE, buffer, PAGE, &need);
	bool read = strcmp(what, "hit") == 0, copy = strcmp(what, "memcpy") == 0;
	u64 x = 88172645463325252ull, sum = 0;
	for (u64 k = 0; k < hits; k++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		u64 pos = x % PAGES * PAGE;
		if (read)
			sum += (u64)pc_read(i, pos, buffer, PAGE, &need);
		else if (copy)
			memcpy(buffer, c->arena.base + pos, PAGE);
		__asm__ volatile("" ::"r"(buffer) : "memory");
	}
	return read && sum != hits * PAGE;
}
