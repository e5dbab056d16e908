/* Reading valid bytes: without any lock, past every race with removal, reuse, truncation and new memory. */
#include "rig.h"

enum { SIZE = 64 << 10 };

static u8 got[SIZE];

static void start(u64 max_folio)
{
	open_one(1 << 20, max_folio, SIZE, SIZE, limits_wide());
	EQUAL(file_read(file, 0, got, SIZE), SIZE);
}

static void right(const u8 *bytes, u64 pos, u64 len)
{
	for (u64 k = 0; k < len; k++)
		EQUAL(bytes[k], first_byte(pos + k));
}

static u8 taken[PAGE];
static struct pc_need need;

THREAD_OF(read_page_two, pc_read(file->inode, 2 * PAGE, taken, PAGE, &need))
THREAD_OF(read_all, pc_read(file->inode, 0, got, SIZE, &need))

/* A reader stops at this point. let_go() returns the number of bytes it has got. */
static pthread_t reader_at(const char *point)
{
	memset(taken, 0xee, PAGE);
	return held_at(point, read_page_two, NULL);
}

/* T-06: other threads hold every lock of the inode while it is read. */
TEST(check_a_reader_passes_every_lock_of_the_inode)
{
	for (u64 folio = PAGE; folio <= 64 << 10; folio *= 16) {
		start(folio);
		EQUAL(file_write(file, 5000, got + 5000, 100), 0); /* dirty as well */
		struct pc_request *r = hand_over(); /* in flight, the token taken */
		CHECK(pc_inode_lock_try(file->inode, PC_EXCLUSIVE));
		EQUAL(pc_invalidate_lock(file->inode), 0);
		for (u64 pos = 0; pos < SIZE; pos += folio)
			CHECK(pc_folio_trylock(folio_at(file, pos)));
		pc_leaf_lock(&rig.cache->queue_lock, PC_LEVEL_QUEUE - 1); /* the level does not matter to this test */
		CHECK(pc_leaf_trylock(&file->inode->leaf, PC_LEVEL_INODE));
		CHECK(pc_leaf_trylock(&rig.cache->arena.lock, PC_LEVEL_FRAME));
		memset(got, 0, SIZE);
		pthread_t t;
		void *n;
		pthread_create(&t, NULL, read_all, NULL);
		pthread_join(t, &n);
		EQUAL((u64)(uintptr_t)n, SIZE);
		right(got, 0, SIZE);
		pc_leaf_unlock(&rig.cache->arena.lock, PC_LEVEL_FRAME);
		pc_inode_leaf_unlock(file->inode);
		pc_leaf_unlock(&rig.cache->queue_lock, PC_LEVEL_QUEUE - 1);
		for (u64 pos = 0; pos < SIZE; pos += folio)
			pc_folio_unlock(rig.cache, folio_at(file, pos));
		pc_invalidate_unlock(file->inode);
		pc_inode_lock_release(file->inode, PC_EXCLUSIVE);
		run_write(file, r);
	}
}

/* T-07: what is read is removed and used again between look-up and copy. */
TEST(check_a_reader_never_sees_the_bytes_of_another_object)
{
	static u8 bytes[1 << 20];
	for (int way = 0; way < 3; way++) {
		start(PAGE);
		struct file *other = file_open(&rig, 1 << 20, 1 << 20);
		memset(other->store.bytes, 0xaa, 1 << 20);
		pthread_t t = reader_at("read_before_copy");
		if (way == 0) /* evicted; frame and descriptor carry other bytes now */
			EQUAL(file_read(other, 0, bytes, 1 << 20), 1 << 20);
		if (way == 1)
			pc_drop_clean(file->inode, 0, ALL); /* poisoned */
		if (way == 2)
			file_truncate(file, 0);
		/* Detected: none of it may be in the buffer. */
		EQUAL((uintptr_t)let_go("read_before_copy", t), 0);
		EQUAL(need.kind, way == 2 ? PC_NEED_NOTHING : PC_NEED_FILL);
		for (u32 k = 0; k < PAGE; k++)
			CHECK(taken[k] == 0 || taken[k] == 0xee);
	}
}

/* The size is checked after the copy: zeros of a cut tail are never returned as data. */
TEST(check_a_reader_sees_the_size_of_the_bytes_it_copied)
{
	struct {
		const char *point;
		u64 left;
	} rows[] = {{"read_before_copy", 1000}, {"read_before_size", 0}};
	start(PAGE);
	for (u32 k = 0; k < 2; k++) {
		pthread_t t = reader_at(rows[k].point);
		file_truncate(file, 2 * PAGE + rows[k].left);
		EQUAL((uintptr_t)let_go(rows[k].point, t), rows[k].left);
		right(taken, 2 * PAGE, rows[k].left);
		EQUAL(need.kind, PC_NEED_NOTHING);
	}
}

static _Atomic pid_t reader;

static u64 read_aside(bool overlaid)
{
	atomic_store(&reader, gettid());
	return (u64)(overlaid ? pc_read_local(file->inode, 2 * PAGE, taken, PAGE, NULL)
			      : pc_read(file->inode, 2 * PAGE, taken, PAGE, &need));
}

THREAD_OF(read_beside_a_change, read_aside(arg != NULL))

/* How often the reader has slept: a yield does not count. */
static u32 sleeps(void)
{
	char line[100];
	u32 n = 0;
	snprintf(line, sizeof(line), "/proc/self/task/%d/status", atomic_load(&reader));
	FILE *status = fopen(line, "r");
	while (status && fgets(line, sizeof(line), status))
		sscanf(line, "voluntary_ctxt_switches: %u", &n);
	if (status)
		fclose(status);
	return n;
}

/* The thread that changes the folio may have a lower priority than the reader, and then runs only while that sleeps. */
TEST(check_a_reader_sleeps_while_a_folio_changes)
{
	start(PAGE);
	for (uintptr_t overlaid = 0; overlaid <= 1; overlaid++) {
		pthread_t t;
		void *n;
		atomic_store(&reader, 0);
		pc_seq_begin(folio_at(file, 2 * PAGE));
		pthread_create(&t, NULL, read_beside_a_change, (void *)overlaid);
		alarm(30);
		while (!atomic_load(&reader) || sleeps() < 20)
			usleep(1000);
		alarm(0);
		pc_seq_end(folio_at(file, 2 * PAGE));
		pthread_join(t, &n);
		EQUAL((uintptr_t)n, PAGE);
		right(taken, 2 * PAGE, PAGE);
	}
}

TEST(check_stale_bytes_satisfy_no_read_but_local_ones_do)
{
	start(16 << 10);
	EQUAL(file_write(file, 4096, got + 4096, 4096), 0);
	struct pc_folio *f = folio_at(file, 0);
	CHECK(pc_folio_trylock(f)); /* another thread has the folio: only the flag can be set */
	pc_invalidate_range(file->inode, 0, ALL);
	CHECK(pc_folio_state(f) & PC_F_STALE);
	EQUAL(pc_read(file->inode, 0, got, 10, &need), 0);
	EQUAL(pc_read(file->inode, 5000, got, 10, &need), 10);
	EQUAL(pc_read(file->inode, 8190, got, 10, &need), 0);
	pc_folio_unlock(rig.cache, f);
	memset(file->store.bytes, 0x42, SIZE);
	EQUAL(file_read(file, 0, got, 4096), 4096);
	EQUAL(got[17], 0x42);
	EQUAL(file_read(file, 5000, got, 1), 1);
	EQUAL(got[0], first_byte(5000));
}

TEST(check_local_bytes_are_laid_over_what_storage_says)
{
	static u8 over[40000];
	for (u64 folio = PAGE; folio <= 64 << 10; folio *= 16) {
		start(folio);
		put(5000, 10, 'm');
		put(9000, 20000, 'm');
		pc_invalidate_range(file->inode, 0, ALL);
		memset(over, '?', sizeof(over));
		EQUAL(pc_read_local(file->inode, 3000, over, 30000, NULL), 8192 - 4096 + 28672 + 4096 - 8192);
		for (u32 b = 0; b < 30000; b++) {
			u64 pos = 3000 + b;
			bool block = pos >= 4096 && pos < 32768;
			bool mine = (pos >= 5000 && pos < 5010) || (pos >= 9000 && pos < 29000);
			EQUAL(over[b], mine ? 'm' : block ? first_byte(pos) : '?');
		}
	}
}
