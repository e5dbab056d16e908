/*
 * opened.c - open files: the number that the handlers have for one, the hit that it lends, and what Python's OpenFile and the
 * workers both write: when something was last written, and whether a failure was told.
 *
 * The kernel's file handle is the address. It sends nothing about a file behind its release, so who runs the release may end it; the
 * memory lasts as long as Python looks at it.
 */
#include <stdlib.h>

#include "state.h"

/* An open file that the kernel does not know yet. @fh: what handlers are told. Return: NULL: no memory. */
struct pc_opened *pc_opened_new(uint64_t fh)
{
	struct pc_opened *o = calloc(1, sizeof(*o));
	if (o)
		o->fh = fh;
	return o;
}

/**
 * pc_opened_begin() - it will be the answer to OPEN or CREATE.
 * @number: of its node.
 * @hit: of pc_hit_open(), which lasts until pc_opened_end(); 0: all of its reads and writes are asked.
 */
void pc_opened_begin(struct pc_loop *l, struct pc_opened *o, uint64_t number, uintptr_t hit)
{
	o->hit = (struct pc_hit *)hit;
	o->number = number;
	pc_node_opened(l, o);
}

/* It was released, or its answer did not arrive, or the loop has stopped: the kernel sends nothing about it. */
void pc_opened_end(struct pc_loop *l, struct pc_opened *o)
{
	pc_node_closed(l, o);
	o->hit = NULL;
}

void pc_opened_free(struct pc_opened *o)
{
	free(o);
}

int64_t pc_opened_written(const struct pc_opened *o)
{
	return atomic_load(&((struct pc_opened *)o)->written_ns);
}

void pc_opened_set_written(struct pc_opened *o, int64_t ns)
{
	atomic_store(&o->written_ns, ns);
}

/* What was written until then is with the backend, unless more was written since. */
void pc_opened_handed_over(struct pc_opened *o, int64_t written_ns)
{
	i64 expected = written_ns;
	atomic_compare_exchange_strong(&o->written_ns, &expected, 0);
}

bool pc_opened_wrote(const struct pc_opened *o)
{
	return atomic_load(&((struct pc_opened *)o)->wrote);
}

void pc_opened_set_wrote(struct pc_opened *o, bool wrote)
{
	atomic_store(&o->wrote, wrote);
}

bool pc_opened_take_wrote(struct pc_opened *o)
{
	return atomic_exchange(&o->wrote, 0);
}

bool pc_opened_was_read(const struct pc_opened *o)
{
	return atomic_load(&((struct pc_opened *)o)->was_read);
}

void pc_opened_set_told(struct pc_opened *o, bool told)
{
	atomic_store(&o->told, told);
}
