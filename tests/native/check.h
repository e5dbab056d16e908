/*
 * check.h - what the C tests share: checks, a store in memory, and the steps that the engine would take.
 *
 *   struct rig    a cache with one volume; rig_close() demands that nothing is left behind
 *   struct file   an inode and its store: `bytes` is what was acknowledged, `stable` what was committed
 *   work()        one piece of the volume's work, as a thread of it would do it
 *
 * The helpers do what the engine does and no more: they ask the core, call the store, report the answer. In a program with
 * one thread a wait means doing the work that ends it; with threads it is a sleep on the event, and a sleep that takes
 * WAIT_MAX_NS is a lost wake-up or a hang: the program fails.
 */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"

#define MAYBE __attribute__((unused))
#define CHECK(x) ((x) ? (void)0 : check_failed(__FILE__, __LINE__, #x, 0, 0))
#define EQUAL(a, b) check_equal(__FILE__, __LINE__, #a " == " #b, (u64)(a), (u64)(b))
#define SOUND(rig) check_sound(__FILE__, __LINE__, (rig)->cache)
#define RUN(f) (check_name = #f, f())

enum { PAGE = 4096, PARTS = 1024, FILES = 8 };
#define ALL UINT64_MAX
#define WAIT_MAX_NS 20000000000ll

static MAYBE const char *check_name = "";
static MAYBE struct pc_cache *check_cache;

static MAYBE _Noreturn void check_failed(const char *file, int line, const char *text, u64 a, u64 b)
{
	static char trace[6000];
	fprintf(stderr, "%s:%d: %s: failed: %s (%" PRIu64 ", %" PRIu64 ")\n", file, line, check_name, text, a, b);
	if (check_cache && pc_trace_text(check_cache, trace, sizeof(trace)))
		fprintf(stderr, "%s", trace);
	abort();
}

static MAYBE void check_equal(const char *file, int line, const char *text, u64 a, u64 b)
{
	if (a != b)
		check_failed(file, line, text, a, b);
}

static MAYBE void check_sound(const char *file, int line, struct pc_cache *c)
{
	struct pc_violation v;
	if (pc_check(c, &v)) {
		fprintf(stderr, "%s: %s\n", v.invariant, v.text);
		check_failed(file, line, "pc_check", 0, 0);
	}
}

/* ---------------------------------------------------------------- random numbers, seeded */

static MAYBE _Thread_local u64 check_seed = 88172645463325252ull;

static MAYBE u64 draw(u64 n)
{
	check_seed ^= check_seed << 13;
	check_seed ^= check_seed >> 7;
	check_seed ^= check_seed << 17;
	return (check_seed >> 11) % n;
}

static MAYBE void seed(u64 n)
{
	check_seed = (n + 1) * 0x9e3779b97f4a7c15ull;
	draw(2);
}

static MAYBE bool soak(void)
{
	return getenv("PAGECACHE_SOAK") != NULL;
}

/* ---------------------------------------------------------------- a store */

struct store {
	pthread_mutex_t lock;
	u8 *bytes, *stable;
	u64 room, size, stable_size;
	u64 read_max, write_max; /* bytes per call, 0: all */
	int write_error, read_error, commit_error; /* negative errno */
	bool parked;                               /* write_error is for good */
	u64 write_fails_at;                        /* with write_error: only calls that reach this byte */
	u32 delay_us;                              /* a write takes so long, and its buffers must not change meanwhile */
	u32 reads, writes, commits;
	u64 read_bytes, write_bytes;
};

struct file {
	struct pc_inode *inode;
	struct store store;
};

struct rig {
	struct pc_cache *cache;
	struct pc_volume *volume;
	struct file *files[FILES];
	u32 nr_files;
};

static MAYBE u8 first_byte(u64 pos)
{
	return (u8)(pos * 7 + (pos >> 12) * 13 + 1);
}

static MAYBE void store_init(struct store *s, u64 size, u64 room)
{
	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
	s->room = room > size ? room : size;
	s->bytes = calloc(s->room + 1, 1);
	s->stable = calloc(s->room + 1, 1);
	s->size = s->stable_size = size;
	for (u64 k = 0; k < size; k++)
		s->bytes[k] = s->stable[k] = first_byte(k);
}

static MAYBE int64_t store_read(struct store *s, u64 pos, const struct pc_part *parts, size_t n)
{
	u64 done = 0;
	pthread_mutex_lock(&s->lock);
	s->reads++;
	u64 most = pos >= s->size ? 0 : s->size - pos;
	most = s->read_max && s->read_max < most ? s->read_max : most;
	for (size_t k = 0; k < n; k++) {
		u64 part = parts[k].len < most - done ? parts[k].len : most - done;
		memcpy(parts[k].memory, s->bytes + pos + done, part);
		done += part;
	}
	s->read_bytes += done;
	int err = s->read_error;
	pthread_mutex_unlock(&s->lock);
	return err ? err : (int64_t)done;
}

static MAYBE u64 sum_of(const struct pc_part *parts, size_t n)
{
	u64 sum = 0;
	for (size_t k = 0; k < n; k++)
		for (u64 b = 0; b < parts[k].len; b++)
			sum = sum * 31 + parts[k].memory[b];
	return sum;
}

static MAYBE int64_t store_write(struct store *s, u64 pos, const struct pc_part *parts, size_t n)
{
	u64 done = 0, len = 0;
	if (s->delay_us) {
		u64 sum = sum_of(parts, n);
		usleep(s->delay_us);
		EQUAL(sum_of(parts, n), sum);
	}
	pthread_mutex_lock(&s->lock);
	s->writes++;
	for (size_t k = 0; k < n; k++)
		len += parts[k].len;
	int err = s->write_error;
	if (err && pos + len > s->write_fails_at) {
		pthread_mutex_unlock(&s->lock);
		return err;
	}
	u64 most = s->write_max && s->write_max < len ? s->write_max : len;
	CHECK(pos + most <= s->room);
	for (size_t k = 0; k < n; k++) {
		u64 part = parts[k].len < most - done ? parts[k].len : most - done;
		memcpy(s->bytes + pos + done, parts[k].memory, part);
		done += part;
	}
	if (pos + done > s->size)
		s->size = pos + done;
	s->write_bytes += done;
	pthread_mutex_unlock(&s->lock);
	return (int64_t)done;
}

static MAYBE int store_commit(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	int err = s->commit_error;
	s->commits++;
	if (!err) {
		memcpy(s->stable, s->bytes, s->room);
		s->stable_size = s->size;
	}
	pthread_mutex_unlock(&s->lock);
	return err;
}

static MAYBE void store_truncate(struct store *s, u64 size)
{
	pthread_mutex_lock(&s->lock);
	CHECK(size <= s->room);
	if (size < s->size)
		memset(s->bytes + size, 0, s->size - size);
	s->size = size;
	pthread_mutex_unlock(&s->lock);
}

/* ---------------------------------------------------------------- opening and closing */

static MAYBE struct pc_limits limits_wide(void)
{
	return (struct pc_limits){.max_read = 1 << 20, .max_write = 1 << 20, .read_unit = 1, .write_unit = 1, .max_vectors = 1024};
}

static MAYBE struct pc_volume *volume_open(struct rig *r)
{
	struct pc_volume *v;
	EQUAL(pc_volume_create(r->cache, 8, &v), 0);
	return v;
}

static MAYBE void rig_open(struct rig *r, u64 capacity, u64 max_folio)
{
	memset(r, 0, sizeof(*r));
	EQUAL(pc_cache_create(capacity, PAGE, max_folio, &r->cache), 0);
	check_cache = r->cache;
	pc_cache_configure(r->cache, capacity / 4, capacity / 2, max_folio, true);
	r->volume = volume_open(r);
}

static MAYBE struct file *file_open_in(struct rig *r, struct pc_volume *v, u64 size, u64 room, struct pc_limits limits)
{
	struct file *f = calloc(1, sizeof(*f));
	CHECK(r->nr_files < FILES);
	store_init(&f->store, size, room);
	EQUAL(pc_inode_create(v, size, &limits, true, &f->inode), 0);
	f->inode->user = f;
	r->files[r->nr_files++] = f;
	return f;
}

static MAYBE struct file *file_open(struct rig *r, u64 size, u64 room)
{
	return file_open_in(r, r->volume, size, room, limits_wide());
}

static MAYBE void file_forget(struct file *f)
{
	free(f->store.bytes);
	free(f->store.stable);
	free(f);
}

/* ---------------------------------------------------------------- requests, as a thread of the volume runs them */

static MAYBE int run_fill(struct file *f, struct pc_request *r)
{
	struct pc_part parts[PARTS];
	size_t n;
	u64 pos;
	int more, err = 0;
	while (!err && (more = pc_call_next(r, &pos, parts, PARTS, &n)) > 0) {
		int64_t got = store_read(&f->store, pos, parts, n);
		err = got < 0 ? (int)got : pc_fill_answer(r, got);
	}
	pc_request_settle(r);
	return err;
}

static MAYBE bool run_write(struct file *f, struct pc_request *r)
{
	struct pc_part parts[PARTS];
	size_t n;
	u64 pos;
	int done = 0;
	while (done == 0) {
		EQUAL(pc_call_next(r, &pos, parts, PARTS, &n), 1);
		int64_t got = store_write(&f->store, pos, parts, n);
		done = got < 0 ? (int)got : pc_write_answer(r, got);
	}
	pc_write_done(r, done == 1, done != 1 && f->store.parked);
	return done == 1;
}

static MAYBE void run_commit(struct file *f)
{
	if (pc_commit_begin(f->inode))
		pc_commit_end(f->inode, store_commit(&f->store) == 0, false);
}

static MAYBE void do_work(struct pc_volume *v, struct pc_work *w)
{
	struct file *f = (struct file *)w->inode->user;
	struct pc_request *r;
	if (w->kind == PC_WORK_REQUEST) {
		w->request->credit = 1;
		run_fill(f, w->request);
	} else if (w->kind == PC_WORK_PASS) {
		int got = pc_write_next(w->inode, &r);
		if (got == 1) {
			r->credit = 1;
			run_write(f, r);
		} else {
			pc_credit_put(v);
			sched_yield();
			if (got == -EAGAIN)
				pc_pass_again(w->inode);
		}
	} else {
		run_commit(f);
	}
	pc_inode_user_put(w->inode);
	pc_work_end(v, w->cls);
}

/* One piece of work. Return: whether there was any. */
static MAYBE bool work(struct pc_volume *v)
{
	struct pc_work w;
	pc_work_next(v, &w);
	if (w.kind == PC_WORK_NONE || w.kind == PC_WORK_STOP)
		return false;
	do_work(v, &w);
	return true;
}

/* A commit of the file, taken from the volume's queue but not run. Return: whether there is anything to commit. */
static MAYBE bool begin_commit(struct file *f)
{
	struct pc_work w;
	pc_commit_start(f->inode);
	for (pc_work_next(f->inode->volume, &w); w.kind != PC_WORK_COMMITTING; pc_work_next(f->inode->volume, &w)) {
		CHECK(w.kind != PC_WORK_NONE);
		do_work(f->inode->volume, &w);
	}
	pc_inode_user_put(w.inode);
	return pc_commit_begin(f->inode);
}

/* ---------------------------------------------------------------- waits */

static MAYBE bool check_threads; /* somebody else works: sleep instead of working */

static MAYBE void wait_event(struct pc_event *e, u32 seq)
{
	atomic_fetch_add(&e->waiters, 1);
	int err = pc_futex_wait(&e->seq, seq, WAIT_MAX_NS);
	atomic_fetch_sub(&e->waiters, 1);
	CHECK(err != -ETIMEDOUT);
}

static MAYBE void wait_folio(struct file *f, const struct pc_need *need)
{
	struct pc_cache *c = f->inode->cache;
	struct pc_folio *o = pc_folio_at(c, need->folio);
	struct pc_event *e = pc_folio_event(c, need->folio);
	bool flight = need->kind == PC_NEED_FLIGHT;
	struct pc_request *r = need->owner ? pc_work_take_owner(f->inode, need->owner) : NULL;
	if (r) {
		run_fill(f, r);
		return;
	}
	if (!pc_folio_get(o))
		return;
	for (;;) {
		u32 seq = atomic_load(&e->seq);
		u32 st = atomic_fetch_or(&o->state, flight ? PC_F_WRITER_WAITS : PC_F_WAITERS);
		if (!(st & (flight ? PC_F_WRITEBACK : PC_F_LOCKED)))
			break;
		if (check_threads)
			wait_event(e, seq);
		else
			CHECK(work(f->inode->volume));
	}
	pc_folio_put(c, o);
}

static MAYBE void wait_word(struct file *f, struct pc_waiter *w)
{
	while (atomic_load(&w->word) == PC_WAITING) {
		if (check_threads)
			CHECK(pc_futex_wait(&w->word, PC_WAITING, WAIT_MAX_NS) != -ETIMEDOUT);
		else
			CHECK(work(f->inode->volume));
	}
}

static MAYBE void lock_inode(struct file *f, int mode)
{
	struct pc_waiter w = {0};
	if (pc_inode_lock_try(f->inode, mode))
		return;
	pc_inode_lock_enqueue(f->inode, &w, mode);
	wait_word(f, &w);
}

static MAYBE void take_token(struct file *f)
{
	struct pc_waiter w = {0};
	pc_inode_leaf_lock(f->inode);
	pc_token_take(f->inode, &w, PC_TOKEN_CALLER);
	pc_inode_leaf_unlock(f->inode);
	wait_word(f, &w);
}

/* Until nothing of the range up to the stamp is dirty or in flight; what failed ends it too. Return: pc_flush_pending. */
static MAYBE u32 flush_range(struct file *f, u64 stamp, u64 pos, u64 end)
{
	for (;;) {
		u32 seq = atomic_load(&f->inode->event.seq);
		pc_flush_start(f->inode, stamp, pos, end);
		u32 pending = pc_flush_pending(f->inode, stamp, pos, end, NULL);
		if (!(pending & (PC_PENDING_DIRTY | PC_PENDING_WRITEBACK)))
			return pending;
		if (check_threads)
			wait_event(&f->inode->event, seq);
		else
			CHECK(work(f->inode->volume));
	}
}

static MAYBE u32 flush(struct file *f)
{
	return flush_range(f, ALL, 0, ALL);
}

/* Rounds of the contract's fsync without its retries. Return: 0, or -EIO: a write or a commit failed. */
static MAYBE int fsync_stamp(struct file *f, u64 stamp)
{
	u64 commits = pc_inode_commit_seq(f->inode);
	while (!pc_sync_done(f->inode, stamp)) {
		if (flush_range(f, stamp, 0, ALL) || pc_inode_commit_seq(f->inode) >= commits + 2)
			return -EIO;
		u32 seq = atomic_load(&f->inode->event.seq);
		if (!pc_commit_needed(f->inode, stamp) && !pc_commit_running(f->inode))
			continue;
		pc_commit_start(f->inode);
		if (check_threads)
			wait_event(&f->inode->event, seq);
		else if (!work(f->inode->volume))
			return -EIO;
	}
	return 0;
}

static MAYBE int file_sync(struct file *f)
{
	return fsync_stamp(f, pc_epoch_take(f->inode->volume));
}

/* ---------------------------------------------------------------- reading and writing */

/* One fill of what is missing at the start of the range. Return: 0, or the store's error. */
static MAYBE int fill_range(struct file *f, u64 pos, u64 len)
{
	struct pc_need need = {0};
	struct pc_request *r;
	int err = pc_fill_begin(f->inode, pos, len, &need, &r);
	if (err == -EAGAIN && need.kind == PC_NEED_FOLIO) {
		wait_folio(f, &need);
		return 0;
	}
	if (err == -EAGAIN) {
		u32 seq = atomic_load(&f->inode->event.seq);
		if (atomic_load(&f->inode->inval_x))
			wait_event(&f->inode->event, seq);
		return 0;
	}
	return err ? err : r ? run_fill(f, r) : 0;
}

static MAYBE int provide(struct file *f, const struct pc_need *need)
{
	switch (need->kind) {
	case PC_NEED_FILL: return fill_range(f, need->pos, need->len);
	case PC_NEED_WRITEBACK: return flush_range(f, ALL, need->pos, need->pos + need->len) ? -EIO : 0;
	case PC_NEED_FOLIO:
	case PC_NEED_FLIGHT: wait_folio(f, need); return 0;
	case PC_NEED_ROOM: return flush(f) ? -EIO : file_sync(f);
	default: return -EINVAL;
	}
}

/* Return: bytes read, short at the end of the file only; or the store's error. */
static MAYBE int64_t file_read(struct file *f, u64 pos, void *to, u64 len)
{
	struct pc_need need;
	for (u64 done = 0;;) {
		done += (u64)pc_read(f->inode, pos + done, (u8 *)to + done, len - done, &need);
		if (done == len || need.kind == PC_NEED_NOTHING)
			return (int64_t)done;
		int err = provide(f, &need);
		if (err)
			return err;
	}
}

/* The caller holds the inode lock X. */
static MAYBE int file_write_locked(struct file *f, u64 pos, const void *from, u64 len)
{
	struct pc_need need;
	for (u64 done = 0;;) {
		done += (u64)pc_write(f->inode, pos + done, (const u8 *)from + done, len - done, &need);
		if (done == len)
			return 0;
		int err = provide(f, &need);
		if (err)
			return err;
	}
}

static MAYBE int file_write(struct file *f, u64 pos, const void *from, u64 len)
{
	lock_inode(f, PC_EXCLUSIVE);
	int err = file_write_locked(f, pos, from, len);
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	return err;
}

/* Everything that truncate and punch hold, in order. */
static MAYBE void stop_the_file(struct file *f, u64 pos, u64 end)
{
	struct pc_need need;
	lock_inode(f, PC_EXCLUSIVE);
	take_token(f);
	EQUAL(pc_invalidate_lock(f->inode), 0);
	while (pc_range_busy(f->inode, pos, end, &need))
		wait_folio(f, &need);
}

static MAYBE void let_the_file_go(struct file *f)
{
	pc_invalidate_unlock(f->inode);
	pc_token_release(f->inode);
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
}

static MAYBE void file_truncate(struct file *f, u64 size)
{
	stop_the_file(f, size, ALL);
	store_truncate(&f->store, size);
	pc_truncate(f->inode, size, true);
	let_the_file_go(f);
}

static MAYBE size_t file_discard(struct file *f, u64 pos, u64 end, u64 *ranges, size_t n)
{
	take_token(f);
	size_t used = pc_discard(f->inode, pos, end, ranges, n, true);
	pc_token_release(f->inode);
	return used;
}

/* The folio of a byte, which must be there. */
static MAYBE struct pc_folio *folio_at(struct file *f, u64 pos)
{
	u32 id = pc_index_lookup(f->inode, pos / PAGE);
	CHECK(id);
	struct pc_folio *o = pc_folio_at(f->inode->cache, id);
	CHECK(pc_folio_is(f->inode, o, pos / PAGE));
	return o;
}

static MAYBE u32 state_at(struct file *f, u64 pos)
{
	return pc_folio_state(folio_at(f, pos));
}

static MAYBE struct pc_usage usage(struct file *f, struct pc_counters *counters)
{
	struct pc_usage u;
	struct pc_counters ignored;
	pc_inode_usage(f->inode, &u, counters ? counters : &ignored);
	return u;
}

/* ---------------------------------------------------------------- the end: nothing may be left */

static MAYBE void rig_close(struct rig *r)
{
	SOUND(r);
	for (u32 k = 0; k < r->nr_files; k++) {
		struct file *f = r->files[k];
		f->store.write_error = f->store.commit_error = 0;
		pc_retry(f->inode, 0, ALL, true);
		EQUAL(file_sync(f), 0);
		while (work(f->inode->volume))
			;
		struct pc_counters n;
		usage(f, &n);
		EQUAL(n.handed_over, n.acknowledged + n.returned);
		EQUAL(n.fill_requested, n.fill_validated + n.fill_reread + n.fill_dropped + n.fill_zeroed);
		struct pc_volume *v = f->inode->volume;
		EQUAL(pc_inode_destroy(f->inode), 0);
		if (v != r->volume && v->nr_inodes == 0)
			pc_volume_destroy(v);
		file_forget(f);
	}
	SOUND(r);
	struct pc_cache_usage u;
	pc_cache_usage_get(r->cache, &u);
	EQUAL(u.used, 0);
	EQUAL(u.folios + u.leaves + u.nodes + u.exts + u.requests + u.shadows, 0);
	EQUAL(u.frames_allocated, u.frames_freed);
	EQUAL(u.local, 0);
	EQUAL(pc_volume_inflight(r->volume), 0);
	pc_volume_destroy(r->volume);
	pc_cache_destroy(r->cache);
	check_cache = NULL;
}

#endif
