/* Hits: lock-free reads and writes beside a writer that holds the file, a handle that is closed, a file that is destroyed,
 * a cache that is closed; when the memory of a closed cache is unmapped. */
#include "rig.h"

enum { SIZE = 64 << 10 };

static _Atomic u8 closed;
static struct pc_readahead window;

static struct pc_hit *hit_open(bool writable)
{
	struct pc_hit *h;
	EQUAL(pc_hit_open(file->inode, (uintptr_t)&closed, (uintptr_t)&window, true, writable, &h), 0);
	return h;
}

static void open_filled(void)
{
	open_one(1 << 20, PAGE, 0, 2 * SIZE, limits_wide());
	put(0, SIZE, 7);
	atomic_store(&closed, 0);
}

TEST(check_valid_bytes_are_read_and_the_rest_is_not)
{
	u8 to[PAGE * 2];
	u64 marker;
	open_filled();
	struct pc_hit *h = hit_open(false);
	EQUAL(pc_hit_read(h, 0, to, sizeof(to), &marker), sizeof(to));
	EQUAL(to[0], 7);
	EQUAL(marker, UINT64_MAX);
	EQUAL(window.prev_end, sizeof(to));
	EQUAL(pc_hit_read(h, SIZE - 10, to, sizeof(to), &marker), 10); /* the end of the file */
	EQUAL(pc_hit_read(h, SIZE, to, sizeof(to), &marker), 0);
	EQUAL(pc_hit_read(h, INT64_MAX, to, sizeof(to), &marker), (u64)-EAGAIN);
	EQUAL(pc_hit_write(h, 0, to, 1), (u64)-EAGAIN); /* not opened for that */
	EQUAL(pc_hit_size(h), SIZE);
	EQUAL(pc_inode_hits(file->inode), 3);
	pc_hit_close(h);
	file = file_open(&rig, SIZE, SIZE);
	h = hit_open(true);
	EQUAL(pc_hit_read(h, 0, to, 1, &marker), (u64)-EAGAIN); /* nothing of it is cached */
	pc_hit_close(h);
}

TEST(check_a_write_takes_all_or_nothing)
{
	u8 from[PAGE * 2], to[PAGE * 2];
	u64 marker;
	open_filled();
	struct pc_hit *h = hit_open(true);
	memset(from, 9, sizeof(from));
	EQUAL(pc_hit_write(h, 100, from, sizeof(from)), sizeof(from));
	EQUAL(pc_hit_read(h, 100, to, sizeof(to), &marker), sizeof(to));
	EQUAL(memcmp(from, to, sizeof(to)), 0);
	CHECK(pc_inode_lock_try(file->inode, PC_SHARED));
	/* another thread has the lock, and the hit does not wait for it */
	EQUAL(pc_hit_write(h, 0, from, PAGE), (u64)-EAGAIN);
	pc_inode_lock_release(file->inode, PC_SHARED);
	EQUAL(pc_hit_write(h, SIZE, from, PAGE), PAGE); /* the file grows */
	EQUAL(pc_hit_size(h), SIZE + PAGE);
	pc_volume_seal(rig.volume, true);
	EQUAL(pc_hit_write(h, 0, from, PAGE), (u64)-EAGAIN);
	pc_volume_seal(rig.volume, false);
	EQUAL(pc_hit_write(h, 0, from, 0), (u64)-EAGAIN);
	EQUAL(pc_hit_write(h, INT64_MAX, from, 1), (u64)-EAGAIN);
	atomic_store(&closed, 1);
	EQUAL(pc_hit_write(h, 0, from, PAGE), (u64)-EAGAIN);
	EQUAL(pc_hit_read(h, 0, to, PAGE, &marker), (u64)-EAGAIN);
	pc_hit_close(h);
}

TEST(check_no_more_is_dirtied_than_the_limit)
{
	static u8 from[SIZE];
	open_filled();
	pc_cache_configure(rig.cache, 16 * PAGE, 20 * PAGE, PAGE, true);
	struct pc_hit *h = hit_open(true);
	u64 taken = SIZE; /* already dirty: 16 pages */
	while (pc_hit_write(h, taken, from, PAGE) == PAGE)
		taken += PAGE;
	CHECK(taken <= 20 * PAGE);
	EQUAL(atomic_load(&rig.cache->reserved), 0);
	pc_hit_close(h);
}

/* I-28, the sides that end: neither the file nor the frames go while a hit is open. */
TEST(check_memory_used_by_a_hit_stays)
{
	u8 to[PAGE];
	u64 marker;
	open_one(1 << 20, PAGE, 0, 2 * SIZE, limits_wide());
	struct pc_hit *h = hit_open(true);
	EQUAL(pc_inode_destroy(file->inode), (u64)-EBUSY);
	SOUND(&rig);
	atomic_fetch_sub(&file->inode->users, 1);
	struct pc_violation v;
	EQUAL(pc_check(rig.cache, &v), 1);
	CHECK(!strcmp(v.invariant, "I-28"));
	atomic_fetch_add(&file->inode->users, 1);
	atomic_fetch_sub(&rig.cache->copies, 1);
	EQUAL(pc_check(rig.cache, &v), 1);
	CHECK(!strcmp(v.invariant, "I-28"));
	atomic_fetch_add(&rig.cache->copies, 1);
	EQUAL(pc_hit_read(h, 0, to, PAGE, &marker), 0);
	pc_hit_close(h);
}

/* A late call finds the inode empty: its struct goes to no other one before it is freed. */
TEST(check_of_an_inode_that_is_gone_nothing_is_shown)
{
	open_one(8 << 20, PAGE, PAGE, PAGE, limits_wide());
	put(0, PAGE, 1);
	EQUAL(NUMBER(file->inode, DIRTY), PAGE);
	EQUAL(file_sync(file), 0);
	EQUAL(NUMBER(file->inode, CACHED), PAGE);
	EQUAL(pc_inode_destroy(file->inode), 0);
	EQUAL(pc_inode_destroy(file->inode), 0);
	struct pc_limits limits = limits_wide();
	struct pc_inode *next;
	EQUAL(pc_inode_create(rig.volume, PAGE, &limits, &next), 0);
	pc_inode_set_unused(file->inode, true);
	EQUAL(pc_cache_hollow(rig.cache), 0);
	pc_commit_start(file->inode, 0);
	pc_settle_start(file->inode);
	EQUAL(NUMBER(file->inode, STORAGE_BUSY), 0);
	EQUAL(NUMBER(file->inode, SIZE), 0);
	EQUAL(NUMBER(file->inode, CACHED), 0);
	EQUAL(NUMBER(next, SIZE), PAGE);
	SOUND(&rig);
	EQUAL(inode_free(next), 0);
	EQUAL(inode_free(file->inode), 0);
	file_forget(file);
	rig.nr_files = 0;
}

/* ---------------------------------------------------------------- the end of a cache */

static void open_cached(void)
{
	static u8 bytes[1 << 20];
	open_one(4 << 20, 64 << 10, sizeof(bytes), sizeof(bytes), limits_wide());
	EQUAL(file_read(file, 0, bytes, sizeof(bytes)), sizeof(bytes));
}

TEST(check_pins_calls_and_copies_keep_the_frames_and_the_last_one_lets_them_go)
{
	struct pc_pin pins[2];
	open_cached();
	pc_drop_clean(file->inode, 0, 64 << 10);
	for (u32 k = 0; k < 2; k++)
		pins[k] = read_pin(100 * PAGE, 10);
	struct pc_request *r = begin_fill(file, 0, PAGE);
	pc_cache_close(rig.cache);
	pc_cache_release(rig.cache);
	for (u32 k = 0; k < 2; k++) {
		EQUAL(pins[1].memory[3], first_byte(100 * PAGE + 3));
		pc_unpin(rig.cache, &pins[k]);
		pc_cache_release(rig.cache);
		CHECK(rig.cache->arena.frames > 0);
	}
	EQUAL(run_fill(file, r), 0);
	CHECK(rig.cache->arena.frames > 0);
	atomic_fetch_add(&rig.cache->copies, 1);
	pc_cache_release(rig.cache);
	CHECK(rig.cache->arena.frames > 0);
	atomic_fetch_sub(&rig.cache->copies, 1);
	pc_cache_release(rig.cache);
	EQUAL(rig.cache->arena.frames, 0);
}

TEST(check_ids_of_one_extension_class_can_be_read_in_the_others)
{
	open_cached();
	u32 fresh = 1;
	for (u32 k = 0; k < PC_EXT_CLASSES; k++)
		fresh = rig.cache->exts[k].fresh > fresh ? (u32)rig.cache->exts[k].fresh : fresh;
	pc_cache_close(rig.cache);
	for (u32 k = 0; k < PC_EXT_CLASSES; k++) {
		CHECK(rig.cache->exts[k].reserved < 64 << 20);
		for (u32 id = 0; id < fresh; id++)
			CHECK(((volatile u8 *)pc_pool_at(&rig.cache->exts[k], id))[rig.cache->exts[k].size - 1] < 255);
	}
}
