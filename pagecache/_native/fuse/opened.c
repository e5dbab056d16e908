/*
 * opened.c - open files: the handlers' file number, the hit that reads and writes use, and the marks that Python's
 * OpenFile and the workers share: the time of the last write, and whether a failure was reported (OpenFile in
 * pagecache/fuse/files.py).
 *
 * The kernel's file handle is the address. The kernel sends nothing about a file after its release, so the release may
 * end it. The memory lasts until Python frees it.
 */
#include <stdlib.h>

#include "state.h"

/* Create an open file that the kernel has no handle for yet. @fh: its number in requests to handlers. Return: NULL: no
 * memory. */
struct pc_opened *pc_opened_new(uint64_t fh)
{
	struct pc_opened *o = calloc(1, sizeof(*o));
	if (o)
		o->fh = fh;
	return o;
}

/**
 * pc_opened_begin() - prepare an open file for the answer to OPEN or CREATE.
 * @number: of its node.
 * @hit: of pc_hit_open(), valid until pc_opened_end(); 0: handlers do all reads and writes.
 */
void pc_opened_begin(struct pc_loop *l, struct pc_opened *o, uint64_t number, uintptr_t hit)
{
	o->hit = (struct pc_hit *)hit;
	o->number = number;
	pc_node_opened(l, o);
}

/* End an open file after its release, when its answer was not delivered, or when the loop has stopped. The kernel sends
 * nothing about it. */
void pc_opened_end(struct pc_loop *l, struct pc_opened *o)
{
	pc_node_closed(l, o);
	o->hit = NULL;
}

void pc_opened_free(struct pc_opened *o)
{
	free(o);
}

int64_t pc_opened_mark(struct pc_opened *o, enum pc_opened_mark mark)
{
	return atomic_load(&o->marks[mark]);
}

/* Return: the value before. */
int64_t pc_opened_set_mark(struct pc_opened *o, enum pc_opened_mark mark, int64_t value)
{
	return atomic_exchange(&o->marks[mark], value);
}

/* Everything written until @written_ns is on the backend; clear the time unless there was a later write. */
void pc_opened_clear_written(struct pc_opened *o, int64_t written_ns)
{
	i64 expected = written_ns;
	atomic_compare_exchange_strong(&o->marks[PC_WRITTEN_NS], &expected, 0);
}
