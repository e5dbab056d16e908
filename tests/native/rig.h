/*
 * rig.h - a cache, files, and the steps that the engine would take.
 *
 *   rig           the cache of a test, with one volume; its end demands that nothing is left behind
 *   struct file   an inode and its store
 *   work()        one piece of the volume's work, as a thread of it would do it
 *
 * The helpers do exactly the engine's work: they query the core, call the store, report the answer. In a program with
 * one thread a wait means doing the work that ends it; with threads it is a sleep on the event, and a sleep of
 * WAIT_MAX_NS is a lost wake-up or a hang: the program fails.
 */
#ifndef RIG_H
#define RIG_H

#include "check.h"

#define SOUND(rig)  check_sound(__FILE__, __LINE__, (rig)->cache)
#define WAIT_MAX_NS 20000000000ll

enum { FILES = 8 };

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

static MAYBE struct rig rig;
static MAYBE struct file *file; /* the only one of most tests */

/* ---------------------------------------------------------------- opening and closing */

/* Limits: a size or unit of 0 is a wide one. */
static MAYBE struct pc_limits limits_with(struct pc_limits l)
{
	l.max_read = l.max_read ? l.max_read : 1 << 20;
	l.max_write = l.max_write ? l.max_write : 1 << 20;
	l.read_unit = l.read_unit ? l.read_unit : 1;
	l.write_unit = l.write_unit ? l.write_unit : 1;
	l.max_vectors = l.max_vectors ? l.max_vectors : 1024;
	l.parallel_direct_writes = 1;
	return l;
}

#define LIMITS(...)   limits_with((struct pc_limits){__VA_ARGS__})
#define limits_wide() LIMITS(0)

static MAYBE struct pc_volume *volume_open(struct rig *r)
{
	struct pc_volume *v;
	EQUAL(pc_volume_create(r->cache, 8, false, &v), 0);
	return v;
}

static void rig_end(void);

/* A rig of an earlier part of the test is closed first. */
static MAYBE void rig_open(struct rig *r, u64 capacity, u64 max_folio)
{
	rig_end();
	check_end = rig_end;
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
	EQUAL(pc_inode_create(v, size, &limits, &f->inode), 0);
	f->inode->user = f;
	r->files[r->nr_files++] = f;
	return f;
}

static MAYBE struct file *file_open(struct rig *r, u64 size, u64 room)
{
	return file_open_in(r, r->volume, size, room, limits_wide());
}

static MAYBE void open_one(u64 capacity, u64 max_folio, u64 size, u64 room, struct pc_limits limits)
{
	rig_open(&rig, capacity, max_folio);
	file = file_open_in(&rig, rig.volume, size, room, limits);
}

static MAYBE void set_limits(struct pc_limits l)
{
	pc_inode_set_limits(file->inode, &l);
}

static MAYBE int inode_free(struct pc_inode *i)
{
	int err = pc_inode_destroy(i);
	if (!err)
		pc_inode_free(i);
	return err;
}

static MAYBE void file_forget(struct file *f)
{
	store_free(&f->store);
	free(f);
}

/* ---------------------------------------------------------------- requests, as a thread of the volume runs them */

static MAYBE bool is_staged(struct file *f, u64 pos)
{
	u64 begin, end;
	return pc_bytes_find(f->inode, false, pos, &begin, &end) && begin == pos;
}

/* One call of a request. */
struct call {
	u64 pos;
	size_t n;
	struct pc_part parts[PARTS];
};

static MAYBE int call_next(struct pc_request *r, struct call *c)
{
	return pc_call_next(r, &c->pos, c->parts, PARTS, &c->n);
}

static MAYBE struct call next_call(struct pc_request *r)
{
	struct call c;
	EQUAL(call_next(r, &c), 1);
	return c;
}

static MAYBE int64_t read_call(const struct call *c)
{
	return store_read(&file->store, c->pos, c->parts, c->n);
}

/* One read call, from the place that the core names. Bytes that are no longer staged because a commit has taken them
 * are requested again when the commit has ended: 0. */
static MAYBE int64_t fetch(struct file *f, struct pc_request *r, const struct call *c)
{
	CHECK(c->n <= pc_max(f->inode->limits.max_vectors, 1));
	int64_t got = r->staged ? store_read_staged(&f->store, c->pos, c->parts, c->n)
				: store_read(&f->store, c->pos, c->parts, c->n);
	if (!r->staged || got != -ENOENT)
		return got;
	while (NUMBER(f->inode, COMMITTING))
		pc_yield();
	return is_staged(f, c->pos) ? got : 0;
}

static MAYBE struct pc_request *begin_fill(struct file *f, u64 pos, u64 len)
{
	struct pc_need need = {0};
	struct pc_request *r;
	EQUAL(pc_fill_begin(f->inode, pos, len, &need, &r), 0);
	return r;
}

static MAYBE int run_fill(struct file *f, struct pc_request *r)
{
	struct call c;
	int err = 0;
	while (!err && call_next(r, &c) > 0) {
		int64_t got = fetch(f, r, &c);
		bool again = got == 0 && r->staged && !is_staged(f, c.pos);
		err = got < 0 ? (int)got : again ? 0 : pc_fill_answer(r, got);
	}
	pc_request_settle(r);
	return err;
}

/* Fetch the missing bytes of a request of whole units. Return: 0, or the store's error. */
static MAYBE int run_gather(struct file *f, struct pc_request *r)
{
	struct call c;
	int err = 0;
	while (r->gather && !err && (err = call_next(r, &c)) > 0) {
		int64_t got = fetch(f, r, &c);
		err = got < 0 ? (int)got : pc_gather_answer(r, got);
	}
	return err;
}

/* The next request of a pass of the file, or NULL. */
static MAYBE struct pc_request *next_write(void)
{
	struct pc_request *r;
	pc_write_next(file->inode, &r);
	return r;
}

static MAYBE void pass_is_over(void)
{
	struct pc_request *r;
	EQUAL(pc_write_next(file->inode, &r), 0);
}

static MAYBE struct pc_request *hand_over(void)
{
	pc_flush_start(file->inode, ALL, 0, ALL);
	struct pc_request *r = next_write();
	CHECK(r);
	return r;
}

/* Answer the next call of a write, as the store does. Return: pc_write_answer. */
static MAYBE int send_call(struct file *f, struct pc_request *r)
{
	struct call c = next_call(r);
	return pc_write_answer(r, store_take(&f->store, c.pos, c.parts, c.n, r->stage));
}

static MAYBE void (*keep_buffers)(struct pc_request *); /* of a backend that keeps those of its calls */

static MAYBE bool run_write(struct file *f, struct pc_request *r)
{
	struct call c;
	int done = run_gather(f, r);
	while (done == 0) {
		EQUAL(call_next(r, &c), 1);
		CHECK(c.n <= pc_max(f->inode->limits.max_vectors, 1));
		if (keep_buffers)
			keep_buffers(r);
		int64_t got = store_take(&f->store, c.pos, c.parts, c.n, r->stage);
		done = got < 0 ? (int)got : pc_write_answer(r, got);
	}
	pc_write_done(r, done == 1, done != 1 && f->store.parked);
	return done == 1;
}

/* Cut off the tail that a direct write has left behind the end. The caller has the token. */
static MAYBE void cut_tail(struct file *f)
{
	u32 tail = NUMBER(f->inode, TAIL);
	if (tail) {
		store_truncate(&f->store, pc_inode_remote_size(f->inode));
		pc_tail_owed(f->inode, tail);
	}
}

static MAYBE void run_commit(struct file *f)
{
	pc_inode_leaf_lock(f->inode);
	u64 stamp = f->inode->commit_stamp;
	pc_inode_leaf_unlock(f->inode);
	if (!pc_commit_begin(f->inode, false))
		return;
	cut_tail(f);
	/* A caller that has asked by now waits for a commit of all its earlier writes [2.15]. */
	CHECK(!NUMBER(f->inode, COMMIT_DUE) || !stamp || !pc_flush_pending(f->inode, stamp, 0, ALL, NULL));
	bool ok = NUMBER(f->inode, COMMIT_DUE) && store_commit(&f->store) == 0;
	if (NUMBER(f->inode, COMMIT_DUE) && !ok)
		COUNT(f->inode, failed_commits);
	pc_commit_end(f->inode, ok, NUMBER(f->inode, COMMIT_DUE) ? PC_COMMIT_AGAIN : PC_COMMIT_KEPT);
}

static MAYBE void do_work(struct pc_volume *v, struct pc_work *w)
{
	struct file *f = (struct file *)w->inode->user;
	struct pc_request *r;
	if (w->kind == PC_WORK_REQUEST) {
		w->request->credit = w->credit;
		run_fill(f, w->request);
	} else if (w->kind == PC_WORK_PASS) {
		int got = pc_write_next(w->inode, &r);
		if (got == 1) {
			r->credit = w->credit;
			run_write(f, r);
		} else {
			pc_credit_put(v, w->credit);
			pc_yield();
			if (got == -EAGAIN)
				pc_pass_again(w->inode);
		}
	} else {
		run_commit(f);
	}
	pc_inode_user_put(w->inode);
	pc_work_end(v, w);
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

static MAYBE struct pc_work next_work(u32 kind)
{
	struct pc_work w;
	pc_work_next(rig.volume, &w);
	EQUAL(w.kind, kind);
	return w;
}

static MAYBE void end_work(struct pc_work *w)
{
	pc_inode_user_put(w->inode);
	pc_work_end(rig.volume, w);
}

static MAYBE void work_all(struct pc_volume *v)
{
	while (work(v))
		;
}

/* The requested commit of the file, taken from the volume's queue but not run. Return: whether it begins. */
static MAYBE bool commit_begins(struct file *f)
{
	struct pc_work w;
	for (pc_work_next(f->inode->volume, &w); w.kind != PC_WORK_COMMITTING; pc_work_next(f->inode->volume, &w)) {
		CHECK(w.kind != PC_WORK_NONE);
		do_work(f->inode->volume, &w);
	}
	pc_inode_user_put(w.inode);
	return pc_commit_begin(f->inode, false);
}

static MAYBE bool begin_commit(struct file *f)
{
	pc_commit_start(f->inode, 0);
	return commit_begins(f);
}

/* ---------------------------------------------------------------- waits */

static MAYBE bool check_threads; /* another thread works: sleep instead of working */

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
	if (!pc_folio_get_of(f->inode, o))
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

/* A record of a wait whose numbers all follow from one. */
static MAYBE struct pc_wait wait_of(u64 n)
{
	return (struct pc_wait){PC_WAIT_REASON, .since_ns = n, .thread = n ^ 1, .volume = n ^ 2,
				.pos = n,       .end = n + 1,  .reason = n ^ 4};
}

static MAYBE void check_whole(const struct pc_wait *w)
{
	struct pc_wait expected = wait_of(w->since_ns);
	expected.number = w->number;
	CHECK(memcmp(w, &expected, sizeof(expected)) == 0);
}

static MAYBE void lock_inode(struct file *f, int mode)
{
	struct pc_waiter w = {0};
	if (pc_inode_lock_try(f->inode, mode))
		return;
	pc_inode_lock_enqueue(f->inode, &w, mode);
	wait_word(f, &w);
}

/* Return: whether the caller has the token, and does not wait. */
static MAYBE bool queue_for_token(struct file *f, struct pc_waiter *w)
{
	pc_inode_leaf_lock(f->inode);
	bool got = pc_token_take(f->inode, w, PC_TOKEN_CALLER);
	pc_inode_leaf_unlock(f->inode);
	return got;
}

static MAYBE void take_token(struct file *f)
{
	struct pc_waiter w = {0};
	queue_for_token(f, &w);
	wait_word(f, &w);
}

#define WITH_TOKEN(x) (take_token(file), x, pc_token_release(file->inode))

/* Advance a sync to its end, to a failure, or until nothing is left to be done without a retry. Return: what ended it. */
static MAYBE enum pc_sync_next run_sync(struct file *f, struct pc_sync *s)
{
	const u32 moving = PC_PENDING_DIRTY | PC_PENDING_WRITEBACK;
	for (;;) {
		enum pc_sync_next next = pc_sync_poll(f->inode, s);
		if (next == PC_SYNC_SEND || next == PC_SYNC_COMMIT)
			pc_sync_start(f->inode, s, next);
		else if (next != PC_SYNC_WAIT)
			return next;
		else if (s->backoff && !(pc_flush_pending(f->inode, s->stamp, s->pos, s->end, NULL) & moving))
			return PC_SYNC_FAILED;
		if (check_threads)
			wait_event(&f->inode->event, s->event);
		else if (!work(f->inode->volume))
			return PC_SYNC_WAIT;
	}
}

/* Flush until nothing of the range up to the stamp is dirty or in flight, or a failure ends it. Return:
 * pc_flush_pending. */
static MAYBE u32 flush_range(struct file *f, u64 stamp, u64 pos, u64 end)
{
	struct pc_sync s = {.stamp = stamp, .pos = pos, .end = end, .flush = 1};
	CHECK(run_sync(f, &s) != PC_SYNC_WAIT);
	return pc_flush_pending(f->inode, stamp, pos, end, NULL);
}

static MAYBE u32 flush(struct file *f)
{
	return flush_range(f, ALL, 0, ALL);
}

/* The contract's fsync without its retries. Return: 0, or -EIO: a write or a commit failed. */
static MAYBE int fsync_stamp(struct file *f, u64 stamp)
{
	struct pc_sync s = {.stamp = stamp, .end = ALL, .flush = 1, .commit = 1};
	return run_sync(f, &s) == PC_SYNC_DONE ? 0 : -EIO;
}

static MAYBE int file_sync(struct file *f)
{
	return fsync_stamp(f, pc_epoch_take(f->inode->volume));
}

/* ---------------------------------------------------------------- reading and writing */

/* Fill the missing bytes at the start of the range with one call. Return: 0, or the store's error. */
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
	case PC_NEED_FOLIO:
	case PC_NEED_FLIGHT: wait_folio(f, need); return 0;
	case PC_NEED_ROOM: return flush(f) ? -EIO : file_sync(f);
	default: return -EINVAL;
	}
}

/* Return: bytes read, short at the end of the file only; or the store's error. */
static MAYBE int64_t file_read(struct file *f, u64 pos, void *to, u64 len)
{
	struct pc_need need = {0};
	for (u64 done = 0;;) {
		done += (u64)pc_read(f->inode, pos + done, (u8 *)to + done, len - done, &need);
		if (done == len || need.kind == PC_NEED_NOTHING)
			return (int64_t)done;
		int err = provide(f, &need);
		if (err)
			return err;
	}
}

static MAYBE int file_write(struct file *f, u64 pos, const void *from, u64 len)
{
	struct pc_need need = {0};
	int err = 0;
	lock_inode(f, PC_EXCLUSIVE);
	for (u64 done = 0; !err;) {
		done += (u64)pc_write(f->inode, pos + done, (const u8 *)from + done, len - done, &need);
		if (done == len)
			break;
		err = provide(f, &need);
	}
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	return err;
}

/* Write bytes of one value to the only file. */
static MAYBE void put(u64 pos, u64 len, u8 value)
{
	u8 *bytes = malloc(len);
	memset(bytes, value, len);
	EQUAL(file_write(file, pos, bytes, len), 0);
	free(bytes);
}

/* The same; the store acknowledges them, or stages them. */
static MAYBE void send_bytes(u64 pos, u64 len, u8 value)
{
	put(pos, len, value);
	EQUAL(flush(file), 0);
}

/* Check that all bytes of a range have that value. */
static MAYBE void see(u64 pos, u64 len, u8 value)
{
	u8 *bytes = malloc(len);
	EQUAL(file_read(file, pos, bytes, len), len);
	for (u64 k = 0; k < len; k++)
		EQUAL(bytes[k], value);
	free(bytes);
}

static MAYBE u8 byte_at(u64 pos)
{
	u8 byte = 0;
	EQUAL(file_read(file, pos, &byte, 1), 1);
	return byte;
}

/* Check the invariants, and bytes, {position, value} each: those that a read returns, or `stored`. */
static MAYBE void check_bytes(int line, const u8 *stored, u64 (*bytes)[2], size_t n)
{
	check_sound(__FILE__, line, rig.cache);
	for (size_t k = 0; k < n; k++) {
		u64 pos = bytes[k][0], byte = stored ? stored[pos] : byte_at(pos);
		if (byte != bytes[k][1])
			check_failed(__FILE__, line, "byte differs: position, value", pos, byte);
	}
}

#define BYTES_OF(stored, ...)                                                                                          \
	check_bytes(__LINE__, stored, (u64[][2]){__VA_ARGS__}, sizeof((u64[][2]){__VA_ARGS__}) / 16)
#define SEES(...)  BYTES_OF(NULL, __VA_ARGS__) /* reads do */
#define SAVES(...) (EQUAL(file_sync(file), 0), BYTES_OF(file->store.stable, __VA_ARGS__)) /* an fsync does */

/* The caller holds the inode lock X. Return: 0, or the store's error. */
static MAYBE int pin_to_store(struct file *f, u64 pos, u64 len, struct pc_pin *pin)
{
	struct pc_need need = {0};
	for (;;) {
		int err = pc_pin(f->inode, pos, len, true, pin, &need);
		if (err == -EAGAIN)
			err = need.kind == PC_NEED_NOTHING ? 0 : provide(f, &need);
		else
			return err;
		if (err)
			return err;
	}
}

/* A view of cached bytes, for reading. */
static MAYBE struct pc_pin read_pin(u64 pos, u64 len)
{
	struct pc_need need = {0};
	struct pc_pin pin;
	EQUAL(pc_pin(file->inode, pos, len, false, &pin, &need), 0);
	return pin;
}

/* Store as an application does through a view: neither the core nor the sanitizer notices. */
__attribute__((no_sanitize("thread"), noinline)) static MAYBE void view_store(u8 *to, const void *from, u64 len)
{
	const u8 *bytes = from;
	/* Store whole aligned words: tests tag each one. */
	for (; len >= 8 && ((uintptr_t)to | (uintptr_t)bytes) % 8 == 0; len -= 8, to += 8, bytes += 8)
		*(volatile u64 *)(void *)to = *(const u64 *)(const void *)bytes;
	while (len--)
		*(volatile u8 *)to++ = *bytes++;
}

/* Take all the locks of truncate and punch, in order. */
static MAYBE void stop_the_file(struct file *f, u64 pos, u64 end)
{
	struct pc_need need = {0};
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
	EQUAL(pc_views_reserve(f->inode, size), 0);
	cut_tail(f);
	store_truncate(&f->store, size);
	pc_truncate(f->inode, size, true);
	pc_views_unreserve(f->inode);
	let_the_file_go(f);
}

static MAYBE size_t file_discard(struct file *f, u64 pos, u64 end, u64 *ranges, size_t n)
{
	take_token(f);
	EQUAL(pc_views_cut(f->inode, pos, end, true), 0);
	pc_discard(f->inode, pos, end, true);
	size_t used = pc_discarded(f->inode, ranges, n);
	pc_token_release(f->inode);
	return used;
}

static MAYBE bool cached(u64 page)
{
	u32 id = pc_index_lookup(file->inode, page);
	return id && pc_folio_is(file->inode, pc_folio_at(rig.cache, id), page);
}

/* The folio of a byte, which must be cached. */
static MAYBE struct pc_folio *folio_at(struct file *f, u64 pos)
{
	u32 id = pc_index_lookup(f->inode, pos / PAGE);
	CHECK(id);
	struct pc_folio *o = pc_folio_at(f->inode->cache, id);
	CHECK(pc_folio_is(f->inode, o, pos / PAGE));
	return o;
}

static MAYBE bool granted(struct pc_waiter *w)
{
	return atomic_load(&w->word) == PC_GRANTED;
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

static MAYBE struct pc_cache_usage cache_usage(void)
{
	struct pc_cache_usage u;
	pc_cache_usage_get(rig.cache, &u);
	return u;
}

/* Check ranges that the core has listed, [pos, end) each. */
static MAYBE void check_ranges(int line, const u64 *ranges, size_t nr, const u64 *expected, size_t nr_expected)
{
	if (nr != nr_expected)
		check_failed(__FILE__, line, "number of ranges", nr, nr_expected);
	for (size_t k = 0; k < nr; k++)
		if (ranges[2 * k] != expected[2 * k] || ranges[2 * k] + ranges[2 * k + 1] != expected[2 * k + 1])
			check_failed(__FILE__, line, "range", ranges[2 * k], ranges[2 * k + 1]);
}

#define RANGES(ranges, nr, ...)                                                                                        \
	check_ranges(__LINE__, ranges, nr, (u64[]){__VA_ARGS__}, sizeof((u64[]){__VA_ARGS__}) / 16)

/* ---------------------------------------------------------------- the end: nothing may be left */

static MAYBE void check_counters(struct file *f)
{
	struct pc_counters n;
	usage(f, &n);
	EQUAL(n.handed_over, n.acknowledged + n.returned);
	EQUAL(n.fill_requested, n.fill_validated + n.fill_reread + n.fill_dropped + n.fill_zeroed);
}

static MAYBE void rig_close(struct rig *r)
{
	SOUND(r);
	for (u32 k = 0; k < r->nr_files; k++) {
		struct file *f = r->files[k];
		f->store.write_error = f->store.commit_error = 0;
		pc_retry(f->inode, 0, ALL, true);
		EQUAL(file_sync(f), 0);
		work_all(f->inode->volume);
		check_counters(f);
		struct pc_volume *v = f->inode->volume;
		EQUAL(inode_free(f->inode), 0);
		if (v != r->volume && v->nr_inodes == 0)
			pc_volume_destroy(v);
		file_forget(f);
	}
	SOUND(r);
	struct pc_cache_usage u = cache_usage();
	EQUAL(u.used, 0);
	EQUAL(u.folios + u.leaves + u.nodes + u.exts + u.requests + u.shadows, 0);
	EQUAL(u.frames_allocated, u.frames_freed);
	EQUAL(u.local, 0);
	EQUAL(atomic_load(&r->cache->ahead) + atomic_load(&r->volume->ahead), 0);
	EQUAL(pc_volume_inflight(r->volume), 0);
	pc_volume_destroy(r->volume);
	pc_cache_destroy(r->cache);
	check_cache = NULL;
	r->cache = NULL;
}

static void rig_end(void)
{
	if (rig.cache)
		rig_close(&rig);
}

#endif
