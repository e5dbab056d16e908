/*
 * spans.c - beginning and end of activities with a duration: a wait, and a backend call that carries bytes.
 *
 *            at the beginning            in progress                     at the end
 *   wait     a record (waits.c)          reports of waits read it        the record is freed; a trace gets a slice
 *   call     the operation notes when    reports of calls read it        latency (latency.c); a trace gets a slice
 *
 * One reading of the clock serves all of them, at either end; a wait outside a trace needs none at its end. Kinds of
 * waits are PC_WAIT_* everywhere. Nothing is reported twice: a caller that runs its own fill waits for it, and the
 * register already has that fill as its operation, so only a trace gets the wait (pc_sleep_shown).
 *
 * Waits of tasks have records too, but no slice: tickets write those themselves (ticket.c). A commit is a phase of its
 * file, with a span of CORE (commit.c); the engine measures the call in it.
 *
 * Context: GIL. A trace may request the name of the thread, which can run any Python code, so data that others read is
 * written before.
 */
#include "types/types.h"

/* ---------------------------------------------------------------- waits */

/* Describe a wait of this thread. */
struct pc_wait pc_wait_of(struct pc_inode *i, u32 kind, u64 pos, u64 end)
{
	return (struct pc_wait){.kind = kind,
				.since_ns = (u64)pc_clock_ns(),
				.thread = pc_thread_id(),
				.volume = (uintptr_t)i->volume,
				.inode = i->id,
				.pos = pos,
				.end = end};
}

struct pc_wait pc_wait_for_folio(struct pc_inode *i, const struct pc_folio *f, const struct pc_need *need)
{
	u64 pos = pc_folio_index(f) << i->cache->page_shift, len = (u64)i->cache->page_size << pc_folio_order(f);
	struct pc_wait w = pc_wait_of(i, need->kind == PC_NEED_FLIGHT ? PC_WAIT_FLIGHT : PC_WAIT_FOLIO, pos, pos + len);
	w.request = need->owner;
	return w;
}

static void show(struct pc_sleep *s, u32 kind, i64 now)
{
	pc_name_thread();
	pc_record_begin(s->cache, &s->span, PC_R_WAIT, (u16)kind, 0, now);
	pc_record_announce(s->cache, &s->span, s->file, s->pos, s->len, s->value);
}

/* Begin a wait, just before the thread sleeps. @value: of the record of a trace. */
void pc_sleep_begin(struct pc_sleep *s, struct pc_cache *c, const struct pc_wait *w, u64 value)
{
	*s = (struct pc_sleep){.cache = c,
			       .file = w->inode,
			       .pos = w->pos,
			       .len = w->end - w->pos,
			       .value = value,
			       .record = pc_wait_begin(c, w)};
	if (PC_UNLIKELY(pc_recording(c)))
		show(s, (u32)w->kind, (i64)w->since_ns);
}

/* Begin a wait that only a trace gets. */
void pc_sleep_shown(struct pc_sleep *s, struct pc_inode *i, u32 kind, u64 pos, u64 len)
{
	*s = (struct pc_sleep){.cache = NULL};
	if (PC_LIKELY(!pc_recording(i->cache)))
		return;
	*s = (struct pc_sleep){.cache = i->cache, .file = i->id, .pos = pos, .len = len};
	show(s, kind, 0);
}

/* End a wait, if it began. */
void pc_sleep_end(struct pc_sleep *s, bool failed)
{
	if (!s->cache)
		return;
	pc_wait_end(s->cache, s->record);
	pc_record_end(s->cache, &s->span, failed ? PC_R_FAILED : 0, s->file, s->pos, s->len, s->value);
	s->cache = NULL;
}

/* ---------------------------------------------------------------- calls of the backend */

/* Begin a call, just before it is made. @what: PC_IO_*. @id: of the request; 0: it belongs to none. */
void pc_io_begin(struct pc_io *io, struct pc_inode *i, int what, u32 timed, u64 pos, u64 len, u64 id)
{
	io->began_ns = pc_clock_ns();
	io->volume = i->volume;
	io->file = i->id;
	io->pos = pos;
	io->len = len;
	io->timed = timed;
	io->span.began = 0;
	if (PC_LIKELY(!pc_recording(i->cache)))
		return;
	pc_name_thread();
	pc_record_begin(i->cache, &io->span, PC_R_IO, (u16)what, id ? id : pc_record_call(), io->began_ns);
	pc_record_announce(i->cache, &io->span, io->file, pos, len, 0);
}

/* End a call that has returned, or raised. @flags: of the record. */
void pc_io_end(struct pc_io *io, int flags, i64 answer)
{
	if (!io->began_ns)
		return;
	i64 now = pc_clock_ns();
	if (io->timed < PC_TIMED)
		pc_latency_add(io->volume, io->timed, (u64)(now - io->began_ns));
	io->span.ended = (u64)now;
	pc_record_end(io->volume->cache, &io->span, flags, io->file, io->pos, io->len, (u64)answer);
	io->began_ns = 0;
}

/* Drop the span of a call that outlives its operation (abort, reconnect): its end is not observed, so it has no
 * duration. */
void pc_io_left(struct pc_io *io)
{
	if (!io->began_ns)
		return;
	pc_record_end(io->volume->cache, &io->span, PC_R_FAILED, io->file, io->pos, io->len, (u64)-1);
	io->began_ns = 0;
}
