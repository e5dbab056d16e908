/*
 * Everything at once, with real threads: readers, writers past the cache and through it, flushers, truncaters, droppers,
 * pins, reports, failing and short answers, a cache much smaller than its files, folios of all sizes, two volumes that
 * recycle each other's memory.
 *
 * Each 8 bytes of a file name their file, position and version. A reader notes the newest version that was complete
 * when it began and the newest that had begun when it ended; zeros are right only if a cut may explain them. A read
 * beside a write of the same bytes may have some of each, even within one cell: a processor may copy bytes, however
 * wide they are. After an fsync the committed content of the store passes an equal check [I-17, I-18, I-24].
 */
#include <time.h>

#define FIRST_SEED getpid()
#include "rig.h"

enum { NR_FILES = 4, CELLS = 16 << 10, BYTES = CELLS * 8, PIECE = 24 << 10 };

struct cells {
	_Atomic u64 version;         /* begun, under the inode lock X */
	_Atomic u64 begun[CELLS];    /* newest event of the cell that had begun */
	_Atomic u64 done[CELLS];     /* newest complete event of the cell */
	_Atomic u64 cut[CELLS];      /* newest cut of the cell that had begun */
};

static struct file *files[NR_FILES];
static struct cells cells[NR_FILES];
static _Atomic bool stop, stop_work;
static bool durable, staging;
static _Atomic u64 nr_read, nr_written, nr_stored, nr_synced, nr_cut, nr_short, nr_staged, nr_direct;

static u64 cell(u32 file, u64 at, u64 version)
{
	return (u64)(file + 1) << 56 | at << 32 | version;
}

/* Return whether each byte is that of a value the cell had between two versions, or of the zeros of a cut. */
static bool mixed(u32 file, u64 at, u64 value, u64 from, u64 to, bool zeros)
{
	for (u32 shift = 0; shift < 64; shift += 8) {
		u8 byte = (u8)(value >> shift);
		bool known = zeros && byte == 0;
		for (u64 version = from; !known && version <= to; version++)
			known = byte == (u8)(cell(file, at, version) >> shift);
		if (!known)
			return false;
	}
	return true;
}

/* @done: the newest complete event of the cell when the read began. */
static void judge(u32 file, u64 at, u64 value, u64 done, const char *reader)
{
	struct cells *c = &cells[file];
	u64 version = (u32)value, begun = atomic_load(&c->begun[at]);
	bool zeros = atomic_load(&c->cut[at]) >= done;
	if (value == 0 ? zeros : value == cell(file, at, version) && version >= done && version <= begun)
		return;
	if (begun > done && mixed(file, at, value, done, begun, zeros))
		return;
	fprintf(stderr,
		"%s: file %u cell %" PRIu64 " (page %" PRIu64 "): value %" PRIx64 ", done %" PRIu64 ", begun %" PRIu64
		", cut %" PRIu64 "\n",
		reader, file, at, at / 512, value, done, begun, atomic_load(&c->cut[at]));
	check_failed(__FILE__, __LINE__, "a byte has a value it never had", at, value);
}

static void pause_for(int milliseconds)
{
	struct timespec t = {0, milliseconds * 1000000};
	nanosleep(&t, NULL);
}

/* Under the inode lock X, before any part of it shows. */
static void begin(struct cells *c, u64 at, u64 end, u64 version)
{
	for (u64 k = at; k < end; k++)
		atomic_store(&c->begun[k], version);
}

/* ---------------------------------------------------------------- readers */

static void read_some(u32 file)
{
	static _Thread_local u64 buffer[PIECE / 8], before[PIECE / 8];
	struct file *f = files[file];
	u64 at = draw(CELLS), n = 1 + draw(draw(3) ? 64 : PIECE / 8);
	n = at + n > CELLS ? CELLS - at : n;
	for (u64 k = 0; k < n; k++)
		before[k] = atomic_load(&cells[file].done[at + k]);
	int64_t got = file_read(f, at * 8, buffer, n * 8);
	if (got == -ENOMEM || got == -ESTALE)
		return; /* nothing can be evicted now; or direct writes invalidate it again and again */
	CHECK(got >= 0);
	for (u64 k = 0; k < (u64)got / 8; k++)
		judge(file, at + k, buffer[k], before[k], "read");
	for (u64 k = (u64)got / 8; k < n; k++) /* the end of the file was somewhere here */
		CHECK(atomic_load(&cells[file].cut[at + k]) >= before[k]);
	atomic_fetch_add(&nr_read, 1);
}

static void *reader(void *arg)
{
	seed((u64)(uintptr_t)arg);
	while (!atomic_load(&stop))
		read_some((u32)draw(NR_FILES));
	return NULL;
}

/* ---------------------------------------------------------------- writers, truncaters */

static void wait_for_room(struct file *f)
{
	for (;;) {
		u32 seq = pc_cache_event_seq(rig.cache);
		if (pc_dirty_room(f->inode, PIECE))
			return;
		pc_retry(f->inode, 0, ALL, true);
		pc_flush_start(f->inode, ALL, 0, ALL);
		for (u32 k = 0; k < NR_FILES; k++) {
			pc_pass_background(files[k]->inode, 1 << 20);
			pc_commit_start(files[k]->inode, 0);
		}
		pc_futex_wait(&rig.cache->event.seq, seq, 5000000);
	}
}

static void write_some(u32 file)
{
	static _Thread_local u64 buffer[PIECE / 8];
	struct cells *c = &cells[file];
	struct file *f = files[file];
	struct pc_need need;
	u64 at = draw(CELLS), n = 1 + draw(draw(2) ? 40 : PIECE / 8), done = 0;
	if (draw(4) == 0) {
		at = at / 512 * 512;
		n = 512 * (1 + draw(6));
	}
	n = at + n > CELLS ? CELLS - at : n;
	wait_for_room(f);
	lock_inode(f, PC_EXCLUSIVE);
	u64 version = atomic_fetch_add(&c->version, 1) + 1;
	u64 old = pc_inode_size(f->inode) / 8;
	for (u64 k = 0; k < n; k++)
		buffer[k] = cell(file, at + k, version);
	for (u64 k = old; k < at; k++) /* the gap is a hole: zeros */
		atomic_store(&c->cut[k], version);
	begin(c, pc_min(old, at), at + n, version);
	while (done < n * 8) {
		done += (u64)pc_write(f->inode, at * 8 + done, (u8 *)buffer + done, n * 8 - done, &need);
		if (done == n * 8)
			break;
		if (need.kind == PC_NEED_ROOM || provide(f, &need) == -ENOMEM) {
			/* No frame is available: yield. The accepted part is complete, and ends on a cell. */
			pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
			pc_retry(f->inode, 0, ALL, true);
			flush(f);
			pc_commit_start(f->inode, 0);
			pause_for(1);
			lock_inode(f, PC_EXCLUSIVE);
			break;
		}
	}
	for (u64 k = 0; k < done / 8; k++)
		atomic_store(&c->done[at + k], version);
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	atomic_fetch_add(&nr_written, 1);
	atomic_fetch_add(&nr_short, done < n * 8);
}

static void *writer(void *arg)
{
	seed((u64)(uintptr_t)arg);
	while (!atomic_load(&stop))
		write_some((u32)draw(NR_FILES));
	return NULL;
}

/* Store as a writer, but through the memory of a view, which stays pinned for a while. The pin may be cut off in
 * that time. */
static bool store_some(u32 file, struct pc_pin *pin)
{
	static _Thread_local u64 buffer[512];
	struct cells *c = &cells[file];
	struct file *f = files[file];
	bool pinned = false;
	lock_inode(f, PC_EXCLUSIVE);
	u64 end = pc_inode_size(f->inode) / 8, at = draw(CELLS), n = 1 + draw(512);
	if (at < end && pin_to_store(f, at * 8, 8 * (at + n > end ? end - at : n), pin) == 0) {
		u64 version = atomic_fetch_add(&c->version, 1) + 1;
		pinned = true;
		n = pin->len / 8;
		for (u64 k = 0; k < n; k++)
			buffer[k] = cell(file, at + k, version);
		begin(c, at, at + n, version);
		view_store(pin->memory, buffer, n * 8);
		for (u64 k = 0; k < n; k++)
			atomic_store(&c->done[at + k], version);
		atomic_fetch_add(&nr_stored, 1);
	}
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	return pinned;
}

static void *storer(void *arg)
{
	struct pc_pin pins[8];
	u32 nr_pins = 0;
	seed((u64)(uintptr_t)arg);
	while (!atomic_load(&stop)) {
		if (nr_pins < 8 && draw(2))
			nr_pins += store_some((u32)draw(NR_FILES), &pins[nr_pins]);
		else if (nr_pins)
			pc_unpin(rig.cache, &pins[--nr_pins]);
		pause_for(1);
	}
	while (nr_pins)
		pc_unpin(rig.cache, &pins[--nr_pins]);
	return NULL;
}

/* Write past the cache, beside readers and other shared holders of the lock. */
static void direct_some(u32 file)
{
	static _Thread_local u64 buffer[512];
	struct cells *c = &cells[file];
	struct file *f = files[file];
	u64 at = draw(CELLS - 512), n = 1 + draw(512), pos = at * 8, end = pos + n * 8, failed;
	struct pc_part part = {.memory = (u8 *)buffer, .len = n * 8};
	int mode = pc_direct_may_share(f->inode, pos, end) ? PC_SHARED : PC_EXCLUSIVE;
	int64_t got;
	lock_inode(f, mode);
	bool may = mode == PC_SHARED ? pc_direct_may_share(f->inode, pos, end) : end <= pc_inode_size(f->inode);
	if (may && mode == PC_EXCLUSIVE && file_sync(f))
		pc_retry(f->inode, 0, ALL, true);
	if (!may ||
	    pc_range_local(f->inode, pos, end)) { /* a view that may be stored to is local as long as it lives */
		pc_inode_lock_release(f->inode, mode);
		return;
	}
	EQUAL(pc_direct_begin(f->inode, &failed), 0);
	u64 version = atomic_fetch_add(&c->version, 1) + 1;
	for (u64 k = 0; k < n; k++)
		buffer[k] = cell(file, at + k, version);
	begin(c, at, at + n, version);
	pc_invalidate_remote(f->inode, pos, end);
	do {
		got = store_write(&f->store, pos, &part, 1);
		pc_direct_answer(f->inode, pos, pos + (got > 0 ? (u64)got : 0), end);
	} while (!pc_direct_end(f->inode, pos, end, &failed, got < 0));
	for (u64 k = 0; got > 0 && k < (u64)got / 8; k++)
		atomic_store(&c->done[at + k], version);
	pc_inode_lock_release(f->inode, mode);
	atomic_fetch_add(&nr_direct, 1);
}

static void *director(void *arg)
{
	seed((u64)(uintptr_t)arg);
	while (!atomic_load(&stop) && !staging) {
		direct_some((u32)draw(NR_FILES));
		pause_for(1);
	}
	return NULL;
}

/* Truncate or punch whole cells; the store and the cache both. */
static void cut_some(u32 file)
{
	struct cells *c = &cells[file];
	struct file *f = files[file];
	bool punch = draw(2);
	u64 at = draw(CELLS), end = punch ? at + 1 + draw(3000) : CELLS;
	stop_the_file(f, punch ? at * 8 : 0, ALL);
	if (!punch && pc_views_reserve(f->inode, at * 8))
		end = at; /* no memory for a copy of a view's bytes: refused */
	u64 version = atomic_fetch_add(&c->version, 1) + 1, remote = pc_inode_remote_size(f->inode) / 8;
	if (punch)
		end = end < remote ? end : remote;
	for (u64 k = at; k < end; k++)
		atomic_store(&c->cut[k], version);
	begin(c, at, end, version);
	if (punch && at < end) {
		pthread_mutex_lock(&f->store.lock);
		store_zero(&f->store, at * 8, end * 8);
		pthread_mutex_unlock(&f->store.lock);
		pc_punch(f->inode, at * 8, end * 8, !durable);
	} else if (!punch && at < end) {
		store_truncate(&f->store, at * 8);
		pc_truncate(f->inode, at * 8, !durable);
		pc_views_unreserve(f->inode);
	}
	for (u64 k = at; k < end; k++)
		atomic_store(&c->done[k], version);
	let_the_file_go(f);
	atomic_fetch_add(&nr_cut, 1);
}

static void *cutter(void *arg)
{
	seed((u64)(uintptr_t)arg);
	while (!atomic_load(&stop)) {
		cut_some((u32)draw(NR_FILES));
		pause_for(3);
	}
	return NULL;
}

/* ---------------------------------------------------------------- fsync, with errors in between */

static void repair(struct file *f)
{
	pthread_mutex_lock(&f->store.lock);
	f->store.write_error = f->store.commit_error = 0;
	pthread_mutex_unlock(&f->store.lock);
	pc_retry(f->inode, 0, ALL, true);
}

static void sync_one(u32 file)
{
	static _Thread_local u64 before[CELLS];
	struct file *f = files[file];
	for (u64 k = 0; k < CELLS; k++)
		before[k] = atomic_load(&cells[file].done[k]);
	u64 stamp = pc_epoch_take(f->inode->volume);
	u32 trouble = (u32)draw(6);
	pthread_mutex_lock(&f->store.lock);
	f->store.write_max = draw(2) ? 0 : 8 * (125 + draw(8000)); /* whole cells */
	f->store.write_error = trouble == 0 ? -EIO : 0;
	f->store.write_fails_at = draw(BYTES);
	f->store.commit_error = trouble == 1 ? -EIO : 0;
	pthread_mutex_unlock(&f->store.lock);
	bool clean = false;
	for (int tries = 0; !clean; tries++) {
		CHECK(tries < 100000);
		clean = fsync_stamp(f, stamp) == 0;
		if (!clean)
			repair(f);
	}
	pthread_mutex_lock(&f->store.lock);
	const u64 *stable = (u64 *)(durable ? f->store.bytes : f->store.stable);
	u64 end = (durable ? f->store.size : f->store.stable_size) / 8;
	for (u64 k = 0; k < end; k++)
		judge(file, k, stable[k], before[k], "fsync");
	for (u64 k = end; k < CELLS; k++)
		CHECK(atomic_load(&cells[file].cut[k]) >= before[k]);
	pthread_mutex_unlock(&f->store.lock);
	atomic_fetch_add(&nr_synced, 1);
}

static void *syncer(void *arg)
{
	seed((u64)(uintptr_t)arg);
	while (!atomic_load(&stop))
		sync_one((u32)draw(NR_FILES));
	for (u32 k = 0; k < NR_FILES; k++)
		repair(files[k]); /* a writer may be waiting for room, and no other thread syncs now */
	return NULL;
}

/* ---------------------------------------------------------------- other disturbances */

static void *disturber(void *arg)
{
	seed((u64)(uintptr_t)arg);
	struct pc_pin pins[16];
	u32 nr_pins = 0;
	while (!atomic_load(&stop)) {
		struct pc_inode *i = files[draw(NR_FILES)]->inode;
		u64 pos = draw(BYTES);
		struct pc_need need;
		switch (draw(11)) {
		case 0: pc_drop_clean(i, pos, pos + 100000); break;
		case 1: pc_invalidate_remote(i, pos, pos + 20000); break;
		case 2: pc_pass_background(i, 64 << 10); break;
		case 3: pc_commit_start(i, 0); break;
		case 4:
			if (nr_pins < 16 && pc_pin(i, pos, 100, false, &pins[nr_pins], &need) == 0)
				nr_pins++;
			break;
		case 5:
			if (nr_pins)
				pc_unpin(rig.cache, &pins[--nr_pins]);
			break;
		case 6: {
			struct pc_readahead ra = {.start = pos / PAGE, .size = 32, .async_size = 32, .max = 32};
			pc_readahead_submit(i, &ra);
			break;
		}
		case 7: pc_inode_set_unused(i, pc_inode_id(i), draw(2)); break;
		case 8: pc_inode_set_aside(i, pc_inode_id(i), (u32)draw(3)); break;
		case 9: pc_inode_age_anew(i); break;
		default: pause_for(1); break;
		}
		if (draw(50) == 0)
			SOUND(&rig);
	}
	while (nr_pins)
		pc_unpin(rig.cache, &pins[--nr_pins]);
	return NULL;
}

/* Report on a volume, whose files come and go: nothing is shown of a file that is gone, though its struct is used again. */
static void *reporter(void *arg MAYBE)
{
	struct pc_volume *v = files[1]->inode->volume;
	struct pc_limits limits = limits_wide();
	struct pc_inode *gone = NULL, *i;
	u64 ids[NR_FILES], next, id = 0;
	while (!atomic_load(&stop)) {
		struct pc_counters counters;
		struct pc_usage sum;
		u32 waiting[PC_WORK_CLASSES];
		CHECK(pc_volume_some_hollow(v, ids, 2) <= 2);
		CHECK(pc_volume_some_aged(v, ids, 2) <= 2);
		CHECK(pc_volume_some_dirty(v, ids, 2) <= 2);
		CHECK(pc_volume_aged(v, ALL, ids, NR_FILES, &next) <= NR_FILES);
		CHECK(pc_volume_unsaved(v) <= NR_FILES * BYTES);
		pc_volume_counters(v, &counters, &sum);
		pc_show_queue(v, waiting);
		pc_some_failed(files[1]->inode);
		EQUAL(gone ? pc_show_number(gone, id, PC_BY_UNSTORED) : 0, 0);
		EQUAL(pc_inode_create(v, PAGE, &limits, true, &i), 0);
		gone = i;
		id = pc_inode_id(i);
		EQUAL(pc_show_number(gone, id, PC_BY_CACHED), 0);
		EQUAL(pc_inode_destroy(i), 0);
		pause_for(1);
	}
	return NULL;
}

static void *worker(void *volume)
{
	struct pc_volume *v = volume;
	while (!atomic_load(&stop_work)) {
		u32 seq = atomic_load(&v->workers.seq);
		if (work(v))
			continue;
		atomic_fetch_add(&v->workers.waiters, 1);
		pc_futex_wait(&v->workers.seq, seq, 1000000000);
		atomic_fetch_sub(&v->workers.waiters, 1);
	}
	return NULL;
}

/* ---------------------------------------------------------------- the test */

static void everything_at_once(int seconds, u64 capacity, u64 max_folio)
{
	void *(*roles[])(void *) = {reader,   reader, writer, writer,    storer,
				    director, cutter, syncer, disturber, reporter};
	enum { ROLES = sizeof(roles) / sizeof(*roles), WORKERS = 4 };
	pthread_t threads[ROLES], workers[WORKERS];
	rig_open(&rig, capacity, max_folio);
	pc_cache_configure(rig.cache, capacity / 4, capacity / 2, draw(2) ? max_folio : 4 * PAGE, true);
	struct pc_volume *other = volume_open(&rig);
	memset(cells, 0, sizeof(cells));
	for (u32 k = 0; k < NR_FILES; k++) {
		struct pc_limits l =
			LIMITS(.max_read = l.max_write = k % 2 ? 32 << 10 : 1 << 20, .durable_writes = durable);
		l.stages = staging && k >= 1; /* one file beside them cannot */
		files[k] = file_open_in(&rig, k % 2 ? other : rig.volume, BYTES, BYTES, l);
		files[k]->store.delay_us = k < 2 ? 300 : 0;
		for (u64 at = 0; at < CELLS; at++)
			((u64 *)files[k]->store.bytes)[at] = cell(k, at, 0);
		memcpy(files[k]->store.stable, files[k]->store.bytes, BYTES);
		if (l.stages)
			store_stages(&files[k]->store);
	}
	atomic_store(&stop, false);
	atomic_store(&stop_work, false);
	check_threads = true;
	for (u32 k = 0; k < WORKERS; k++)
		pthread_create(&workers[k], NULL, worker, k % 2 ? other : rig.volume);
	for (u32 k = 0; k < ROLES; k++)
		pthread_create(&threads[k], NULL, roles[k], (void *)(uintptr_t)(k + draw(1000000)));
	for (int k = 0; k < seconds * 100; k++)
		pause_for(10);
	atomic_store(&stop, true);
	join_threads(threads, ROLES);
	SOUND(&rig);
	for (u32 k = 0; k < NR_FILES; k++)
		sync_one(k);
	atomic_store(&stop_work, true);
	pc_flusher_wake(rig.cache);
	join_threads(workers, WORKERS);
	check_threads = false;
	for (u32 k = 0; k < NR_FILES; k++)
		atomic_fetch_add(&nr_staged, files[k]->store.stages);
	printf("%" PRIu64 " reads, %" PRIu64 " writes (%" PRIu64 " short), %" PRIu64 " syncs, %" PRIu64
	       " cuts, %" PRIu64 " stored through views, %" PRIu64 " evicted, %" PRIu64 " copied on conflict\n",
	       atomic_load(&nr_read), atomic_load(&nr_written), atomic_load(&nr_short), atomic_load(&nr_synced),
	       atomic_load(&nr_cut), atomic_load(&nr_stored), cache_usage().evicted, cache_usage().cow_copies);
	CHECK(staging || atomic_load(&nr_direct) > 0);
	CHECK(cache_usage().evict_examined_max <= 64);
}

TEST(check_small_folios_in_a_small_cache)
{
	everything_at_once(soak() ? 120 : 1, 256 << 10, PAGE);
}

TEST(check_large_folios_in_a_small_cache)
{
	everything_at_once(soak() ? 120 : 1, 400 << 10, 64 << 10);
}

/* Bytes forgotten by a failed commit have to be sent again; staged ones leave memory and come back. */
TEST(check_staged_files_in_a_small_cache)
{
	staging = true;
	everything_at_once(soak() ? 120 : 1, 200 << 10, PAGE);
	everything_at_once(soak() ? 120 : 1, 400 << 10, 32 << 10);
	staging = false;
	CHECK(atomic_load(&nr_staged) > 0);
}

TEST(check_durable_writes_in_a_large_cache)
{
	durable = true;
	everything_at_once(soak() ? 120 : 1, 2 << 20, 128 << 10);
	durable = false;
}
