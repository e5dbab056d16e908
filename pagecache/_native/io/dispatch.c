/*
 * dispatch.c - requests of any kind: their next backend call, and their end.
 */
#include "io/io.h"

int pc_call_next(struct pc_request *r, uint64_t *pos, struct pc_part *parts, size_t n, size_t *nr_parts)
{
	if (r->unit)
		return pc_unit_call(r, parts, n, nr_parts, pos);
	int more = r->kind == PC_REQ_FILL ? pc_fill_call(r, parts, n, nr_parts) : pc_write_call(r, parts, n, nr_parts);
	*pos = r->call_pos;
	return more;
}

/* Release a finished or abandoned request: a fill's folios are unlocked, a write's bytes are dirty again. */
void pc_request_settle(struct pc_request *r)
{
	if (r->kind == PC_REQ_WRITE) {
		pc_write_done(r, false, false);
	} else if (r->kind == PC_REQ_MIRROR) {
		pc_mirror_end(r);
	} else {
		pc_fill_settle(r);
		pc_request_delete(r);
	}
}
