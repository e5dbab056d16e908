/*
 * handle_write.h - shared by the fast path of a write (handle_write.c) and the slow one (handle_claim.c).
 */
#ifndef PC_HANDLE_WRITE_H
#define PC_HANDLE_WRITE_H

#include "types/handle.h"

/* handle_write.c */
void pc_characters_written(u64 done);

/* handle_claim.c */
enum pc_result pc_call_engine(struct handle *h, PyObject *method, u64 a, u64 b);
enum pc_result pc_write_slow(struct handle *h, u64 pos, const u8 *from, u64 len, u64 done);
enum pc_result pc_append_slow(struct handle *h, u64 *pos, const u8 *from, u64 len, u64 done, bool locked);

static inline i64 pc_core_write(struct handle *h, u64 pos, const u8 *from, u64 len, struct pc_need *need)
{
	i64 n;
	h->wrote = 1;
	if (PC_LIKELY(len < h->gil_release))
		return pc_write(h->inode, pos, from, len, need);
	Py_BEGIN_ALLOW_THREADS n = pc_write(h->inode, pos, from, len, need);
	Py_END_ALLOW_THREADS return n;
}

#endif
