/*
 * Everything at once, with real threads: the clients of the schedules, each with operations of one kind, reports, failing
 * and short answers, a cache much smaller than its files, folios of all sizes, two volumes that recycle each other's
 * memory. schedules/model.h judges the bytes that they read, and the committed content of the store after each fsync
 * [I-17, I-18, I-24].
 */
#include <time.h>

#define FIRST_SEED getpid()
#include "schedules/clients.h"

static _Atomic bool stop, stop_work;

static const struct role {
	u8 weights[CLIENT_VERBS];
	int pause; /* milliseconds between two operations */
} roles[CLIENTS] = {
	{{[READ] = 1}, 0},
	{{[READ] = 1}, 0},
	{{[WRITE] = 1}, 0},
	{{[WRITE] = 1}, 0},
	{{[STORE] = 3, [PIN] = 1}, 1},
	{{[TRUNCATE] = 1, [PUNCH] = 1}, 3},
	{{[SYNC] = 1}, 0},
	{{[DROP] = 2, [FLUSH] = 1, [COMMIT] = 1, [AHEAD] = 1, [PIN] = 2}, 1},
	{{[DIRECT] = 1}, 1}, /* of two at once it is unknown which is newer */
};

static void pause_for(int milliseconds)
{
	struct timespec t = {0, milliseconds * 1000000};
	nanosleep(&t, NULL);
}

/* A waiter gives up, now and then when the lock has just come. */
static void give_up_waiting(struct file *f)
{
	struct pc_waiter w = {0};
	int mode = draw(2) ? PC_SHARED : PC_EXCLUSIVE;
	pc_inode_lock_enqueue(f->inode, &w, mode);
	if (pc_waiter_cancel(f->inode, &w))
		pc_inode_lock_release(f->inode, mode);
}

/* Make trouble for a sync: short answers, failing writes, failing commits. */
static void make_trouble(struct store *s)
{
	u32 trouble = (u32)draw(6);
	pthread_mutex_lock(&s->lock);
	s->write_max = draw(2) ? 0 : 8 * (125 + draw(8000));
	s->write_error = trouble == 0 ? -EIO : 0;
	s->write_fails_at = draw(BYTES);
	s->commit_error = trouble == 1 ? -EIO : 0;
	pthread_mutex_unlock(&s->lock);
}

static void *run_client(void *number)
{
	static struct client clients[CLIENTS];
	struct client *self = &clients[(uintptr_t)number];
	const struct role *role = &roles[(uintptr_t)number];
	bool direct = role->weights[DIRECT];
	seed((uintptr_t)number + draw(1000000));
	self->nr_pins = 0;
	while (!atomic_load(&stop) && !(direct && world.kind_stages)) {
		u32 file = (u32)draw(NR_FILES);
		if (role->weights[SYNC])
			make_trouble(&world.files[file]->store);
		self->nr_acts = 0;
		give_up_waiting(world.files[file]);
		struct pc_wait wait = wait_of(1 + draw(1ull << 40));
		u32 id = pc_wait_begin(rig.cache, &wait);
		client_act(self, file, role->weights);
		pc_wait_end(rig.cache, id);
		if (draw(50) == 0 && role->weights[DROP])
			SOUND(&rig);
		if (role->pause)
			pause_for(role->pause);
	}
	client_leave(self);
	for (u32 k = 0; k < NR_FILES; k++)
		repair(world.files[k]); /* a writer may be waiting for room, and no other thread syncs now */
	return NULL;
}

/* Report on a volume, whose files come and go. */
static void *reporter(void *arg MAYBE)
{
	struct pc_volume *v = world.files[1]->inode->volume;
	struct pc_limits limits = limits_wide();
	struct pc_inode *i;
	u64 ids[NR_FILES], next;
	while (!atomic_load(&stop)) {
		struct pc_counters counters;
		struct pc_usage sum;
		u32 waiting[PC_WORK_CLASSES];
		CHECK(pc_volume_some(v, PC_LIST_HOLLOW, ids, 2) <= 2);
		CHECK(pc_volume_some(v, PC_LIST_AGED, ids, 2) <= 2);
		CHECK(pc_volume_some(v, PC_LIST_DIRTY, ids, 2) <= 2);
		CHECK(pc_volume_aged(v, ALL, ids, NR_FILES, &next) <= NR_FILES);
		CHECK(pc_volume_number(v, PC_VOLUME_UNSAVED) <= NR_FILES * BYTES);
		for (u32 k = 1; k < pc_waits_bound(rig.cache); k++) {
			struct pc_wait seen;
			if (pc_wait_read(rig.cache, k, &seen))
				check_whole(&seen);
		}
		pc_volume_counters(v, &counters, &sum);
		pc_show_queue(v, waiting);
		struct pc_inode *own = world.files[1]->inode;
		pc_some_failed(own);
		pc_inode_set_unused(own, draw(2));
		pc_inode_set_aside(own, (u32)draw(3));
		pc_inode_age_anew(own);
		EQUAL(pc_inode_create(v, PAGE, &limits, &i), 0);
		EQUAL(NUMBER(i, CACHED), 0);
		EQUAL(inode_free(i), 0);
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

static void everything_at_once(u64 capacity, u64 max_folio)
{
	enum { WORKERS = 4 };
	pthread_t clients[CLIENTS], workers[WORKERS], other;
	rig_open(&rig, capacity, max_folio);
	pc_cache_configure(rig.cache, capacity / 4, capacity / 2, draw(2) ? max_folio : 4 * PAGE, true);
	struct pc_volume *volume = volume_open(&rig);
	world.rig = &rig;
	world.nr_files = NR_FILES;
	for (u32 k = 0; k < NR_FILES; k++) {
		u64 most = k % 2 ? 32 << 10 : 1 << 20;
		struct pc_limits l = LIMITS(.max_read = most, .max_write = most, .durable_writes = world.durable);
		l.stages = world.kind_stages && k >= 1; /* one file beside them cannot */
		struct file *f = world.files[k] = file_open_in(&rig, k % 2 ? volume : rig.volume, BYTES, BYTES, l);
		f->store.delay_us = k < 2 ? 300 : 0;
		memset(&world.cells[k], 0, sizeof(world.cells[k]));
		is_done(&world.cells[k], 0, CELLS, begins(&world.cells[k], 0, CELLS));
		for (u32 at = 0; at < CELLS; at++)
			cell_fill((u64 *)(void *)(f->store.bytes + at * CELL), cell(k, at, 1));
		memcpy(f->store.stable, f->store.bytes, BYTES);
		if (l.stages)
			store_stages(&f->store);
	}
	atomic_store(&stop, false);
	atomic_store(&stop_work, false);
	check_threads = true;
	for (u32 k = 0; k < WORKERS; k++)
		pthread_create(&workers[k], NULL, worker, k % 2 ? volume : rig.volume);
	start_threads(clients, CLIENTS, run_client);
	pthread_create(&other, NULL, reporter, NULL);
	for (int k = 0; k < 100; k++)
		pause_for(10);
	atomic_store(&stop, true);
	join_threads(clients, CLIENTS);
	join_threads(&other, 1);
	SOUND(&rig);
	for (u32 k = 0; k < NR_FILES; k++)
		client_sync(k);
	atomic_store(&stop_work, true);
	pc_flusher_wake(rig.cache);
	join_threads(workers, WORKERS);
	check_threads = false;
	CHECK(cache_usage().evict_examined_max <= 64);
}

TEST(check_small_and_large_folios_in_a_small_cache)
{
	everything_at_once(256 << 10, PAGE);
	everything_at_once(400 << 10, 64 << 10);
}

/* Bytes forgotten by a failed commit have to be sent again; staged ones leave memory and come back. */
TEST(check_staged_files_in_a_small_cache)
{
	world.kind_stages = true;
	everything_at_once(200 << 10, PAGE);
	CHECK(world.files[1]->store.stages > 0);
	everything_at_once(400 << 10, 32 << 10);
	world.kind_stages = false;
}

TEST(check_durable_writes_in_a_large_cache)
{
	world.durable = true;
	everything_at_once(2 << 20, 128 << 10);
	world.durable = false;
}
