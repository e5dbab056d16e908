/*
 * record.h - the records of a trace (record.c), and the test that each maker of a record starts with.
 */
#ifndef PC_RECORD_H
#define PC_RECORD_H

#include "state/cache.h"

struct pc_inode;
struct pc_request;

/* Whether a trace of the cache runs. The flag lies beside `fork_epoch`, which every verb reads before it does anything. */
static inline bool pc_recording(const struct pc_cache *c)
{
	return PC_UNLIKELY(atomic_load_explicit(&((struct pc_cache *)c)->recording, memory_order_relaxed));
}

/* Work that takes time, on the stack or in the object of its owner; `began` 0: no trace ran when it began. */
struct pc_span {
	u64 id, began;
	u64 ended; /* 0: pc_record_end reads the clock */
	u32 thread;
	u16 what;
	u8 kind;
};

struct pc_recorder *pc_recorder_create(void);
void pc_recorder_destroy(struct pc_recorder *r);
void pc_record_stamp(u64 stamp);
void pc_record_begin(struct pc_cache *c, struct pc_span *s, int kind, u16 what, u64 id, i64 now);
void pc_record_announce(struct pc_cache *c, const struct pc_span *s, u64 file, u64 pos, u64 len, u64 value);
void pc_record_end(struct pc_cache *c, struct pc_span *s, int flags, u64 file, u64 pos, u64 len, u64 value);
void pc_record_event(struct pc_cache *c, int kind, u16 what, u64 file, u64 pos, u64 len, u64 id, u64 value);

/* Changes of bytes: called with the lock that orders them (see record.c). */
void pc_record_wrote(struct pc_inode *i, u64 pos, u64 len);
void pc_record_issued(struct pc_request *r);
void pc_record_answered(struct pc_request *r, u32 seg, u32 b0, u32 b1, int how);
void pc_record_moved(struct pc_inode *i, int kind, u64 pos, u64 len);

#endif
