/* Staged bytes: the map of them, how bytes become staged and how that ends, and the source of missing bytes (contract 0.1
 * S, 1.1 M5, 2.23; T-61, T-70). */
#include "staging.h"

enum { CELLS = 3000 };

static void compare(struct pc_inode *i, const bool *in)
{
	u64 count = 0, stop;
	pc_inode_leaf_lock(i);
	for (u64 k = 0; k < CELLS; k++) {
		EQUAL(pc_map_at(&i->staged.map, k, CELLS, &stop), in[k]);
		CHECK(stop > k && (stop == CELLS || in[stop] != in[k]) && in[stop - 1] == in[k]);
		count += in[k];
	}
	EQUAL(pc_staged_bytes(i), count);
	pc_inode_leaf_unlock(i);
}

TEST(check_the_map_equals_an_array_of_bytes)
{
	static bool in[CELLS];
	start(ROOM);
	struct pc_inode *i = file->inode;
	for (u32 round = 0; round < 40; round++) {
		seed(round);
		memset(in, 0, sizeof(in));
		u64 length = 1 + draw(draw(2) ? 4 : 400);
		for (u32 k = 0; k < 1200; k++) {
			u64 pos = draw(CELLS), end = pc_min(pos + 1 + draw(length), CELLS);
			bool add = draw(5), any = false;
			for (u64 b = pos; b < end; b++) {
				any |= in[b];
				in[b] = add;
			}
			pc_inode_leaf_lock(i);
			if (add)
				CHECK(pc_staged_add(i, pos, end, 1));
			else
				EQUAL(pc_staged_cut(i, pos, end), any);
			pc_inode_leaf_unlock(i);
			if (k % 100 == 0)
				compare(i, in);
			if (k % 300 == 0)
				SOUND(&rig);
		}
		compare(i, in);
		pc_inode_leaf_lock(i);
		pc_staged_cut(i, 0, ALL);
		pc_inode_leaf_unlock(i);
		EQUAL(i->staged.stamp, PC_STAMP_NONE);
		EQUAL(cache_usage().staged_map_bytes, 0);
	}
}

/* A file in more pieces than the map holds keeps the rest in U; its pieces can still be merged and cut. */
TEST(check_the_map_is_bounded)
{
	start(ROOM);
	struct pc_inode *i = file->inode;
	u64 n = 0;
	pc_inode_leaf_lock(i);
	while (n < ROOM && pc_staged_add(i, n * 2, n * 2 + 1, 1))
		n++;
	EQUAL(n, 1 << 16);
	CHECK(pc_staged_add(i, 1, 2, 1)); /* two become one */
	CHECK(pc_staged_add(i, n * 2, n * 2 + 1, 1));
	CHECK(!pc_staged_add(i, n * 2 + 2, n * 2 + 3, 1));
	pc_inode_leaf_unlock(i);
	CHECK(cache_usage().staged_map_bytes < 4 << 20);
	SOUND(&rig);
	u64 before = staged();
	send_bytes(40 * PAGE, PAGE, 1);
	EQUAL(file->store.stages, 1);
	EQUAL(staged(), before);
	EQUAL(usage(file, NULL).unstable, PAGE);
	evict_all();
	see(40 * PAGE, PAGE, 1);
	SOUND(&rig);
	pc_inode_leaf_lock(i);
	pc_staged_cut(i, 0, ALL);
	pc_inode_leaf_unlock(i);
}

TEST(check_staged_bytes_are_clean_in_memory_and_uncommitted)
{
	start(0);
	send_bytes(0, 8 * PAGE, 1);
	EQUAL(staged(), 8 * PAGE);
	EQUAL(usage(file, NULL).local, 0);
	EQUAL(atomic_load(&rig.cache->local), 0); /* not counted against the limits */
	CHECK(NUMBER(file->inode, UNSAVED));
	EQUAL(pc_volume_dirty_inodes(rig.volume, NULL, 0), 1);
	EQUAL(pc_inode_destroy(file->inode), (u64)-EBUSY);
	u64 range[2];
	RANGES(range, pc_ranges(file->inode, PC_RANGES_LOCAL, range, 1), 0, 8 * PAGE);
	CHECK(!pc_sync_done(file->inode, pc_epoch_take(rig.volume)));
	SOUND(&rig);
	evict_all();
	EQUAL(usage(file, NULL).cached, 0);
	u32 reads = file->store.reads;
	see(0, 8 * PAGE, 1);
	EQUAL(file->store.reads, reads);
	CHECK(file->store.staged_reads);
	evict_all();
	SAVES({0, 1}, {8 * PAGE - 1, 1}); /* all of it evicted: the fsync still has something to commit (T-70) */
	EQUAL(staged(), 0);
	EQUAL(file->store.stable_size, 8 * PAGE);
	evict_all();
	see(0, 8 * PAGE, 1); /* from the object now */
	CHECK(file->store.reads > reads);
}

/* The first half of the limit is written as usual; bytes beyond it are staged, if the backend can. */
TEST(check_only_what_passes_the_files_share_is_staged)
{
	for (u64 stages = 0; stages <= 1; stages++) {
		start_with(0, PAGE, 8, limits_wide());
		if (!stages)
			set_limits(limits_wide());
		for (u64 k = 0; k < 32; k++)
			send_bytes(k * PAGE, PAGE, (u8)(k + 1));
		EQUAL(usage(file, NULL).unstable, (stages ? 4 : 32) * PAGE);
		EQUAL(staged(), stages * 28 * PAGE);
		EQUAL(file->store.stages, stages * 28);
		SOUND(&rig);
		evict_all();
		for (u64 k = 0; k < 32; k++)
			see(k * PAGE, PAGE, (u8)(k + 1));
		SAVES({31 * PAGE, 32});
	}
}

/* Memory is no longer short; but a backend never gets a byte staged first and then written normally. */
TEST(check_writes_that_meet_staged_bytes_are_staged)
{
	start_with(0, PAGE, 1, limits_wide());
	send_bytes(0, 2 * PAGE, 1);
	pc_cache_configure(rig.cache, PAGE, 1 << 19, PAGE, true);
	send_bytes(8 * PAGE, PAGE, 2);
	EQUAL(file->store.stages, 1);
	EQUAL(usage(file, NULL).unstable, PAGE);
	send_bytes(PAGE + 100, 50, 3);
	EQUAL(file->store.stages, 2);
	EQUAL(usage(file, NULL).unstable, PAGE);
	SAVES({PAGE + 100, 3});
}

/* A block whose missing bytes are of S, of the object and dirty: each comes from its own place, and the newest wins. */
TEST(check_a_page_of_three_origins)
{
	start(2 * PAGE);
	u8 bytes[2 * PAGE];
	send_bytes(100, 50, 1);
	send_bytes(300, 4000, 2);
	evict_all();
	put(350, 10, 3);
	EQUAL(file_read(file, 0, bytes, 2 * PAGE), 2 * PAGE);
	for (u64 k = 0; k < 2 * PAGE; k++)
		EQUAL(bytes[k], k >= 350 && k < 360    ? 3
				: k >= 300 && k < 4300 ? 2
				: k >= 100 && k < 150  ? 1
						       : first_byte(k));
	SOUND(&rig);
	EQUAL(flush(file), 0);
	evict_all();
	see(350, 10, 3); /* staged again, over staged bytes */
	see(360, 3940, 2);
	EQUAL(staged(), 4300); /* a block goes with all its valid bytes */
	SAVES({355, 3});
}

/* All eight extents of a page in use, with staged bytes between them: closing the gaps takes no ninth. */
TEST(check_gaps_with_staged_bytes_close)
{
	start(PAGE);
	for (u64 k = 0; k < 8; k++)
		send_bytes(200 + k * 400, 50, 9);
	evict_all();
	for (u64 k = 0; k < 8; k++)
		put(k * 400 + 100, 20, 7);
	u8 bytes[PAGE];
	EQUAL(file_read(file, 0, bytes, PAGE), PAGE);
	for (u64 k = 0; k < PAGE; k++) {
		bool new = k % 400 >= 100 && k % 400 < 120 && k / 400 < 8;
		bool kept = k >= 200 && (k - 200) % 400 < 50 && (k - 200) / 400 < 8;
		EQUAL(bytes[k], new ? 7 : kept ? 9 : first_byte(k));
	}
}

TEST(check_a_failed_commit_leaves_staged_bytes_where_they_are)
{
	start_with(0, PAGE, 4, limits_wide());
	send_bytes(0, 2 * PAGE, 1);
	send_bytes(2 * PAGE, 4 * PAGE, 2);
	EQUAL(usage(file, NULL).unstable, 2 * PAGE);
	EQUAL(staged(), 4 * PAGE);
	u64 s = pc_epoch_take(rig.volume);
	CHECK(begin_commit(file));
	store_forget(&file->store);
	pc_commit_end(file->inode, false, false);
	EQUAL(usage(file, NULL).dirty, 2 * PAGE);
	EQUAL(staged(), 4 * PAGE);
	CHECK(!pc_sync_done(file->inode, s));
	SOUND(&rig);
	evict_all();
	see(2 * PAGE, 4 * PAGE, 2);
	u64 sent = file->store.write_bytes;
	SAVES({0, 1}, {5 * PAGE, 2});
	EQUAL(file->store.write_bytes, sent + 2 * PAGE);
}

TEST(check_truncate_and_punch_cut_what_is_staged)
{
	start(0);
	send_bytes(0, 10 * PAGE, 1);
	evict_all();
	u64 s = pc_epoch_take(rig.volume);
	stop_the_file(file, 0, ALL);
	store_zero(&file->store, PAGE + 5, 3 * PAGE + 9);
	pc_punch(file->inode, PAGE + 5, 3 * PAGE + 9, true);
	let_the_file_go(file);
	EQUAL(staged(), 8 * PAGE - 4);
	file_truncate(file, 5 * PAGE + 100);
	EQUAL(staged(), 3 * PAGE + 96);
	SOUND(&rig);
	see(0, PAGE + 5, 1);
	see(PAGE + 5, 2 * PAGE + 4, 0);
	see(3 * PAGE + 9, 2 * PAGE + 91, 1);
	file_truncate(file, 0);
	EQUAL(staged(), 0);
	CHECK(!pc_sync_done(file->inode, s)); /* as old as the bytes it removed */
	file_truncate(file, 8 * PAGE);
	see(0, 8 * PAGE, 0);
}

TEST(check_discard_names_staged_and_dirty_bytes_once)
{
	u64 lost[8];
	start(0);
	send_bytes(0, 10 * PAGE, 1);
	evict_all();
	put(4 * PAGE, 2 * PAGE, 2);
	RANGES(lost, file_discard(file, PAGE, 8 * PAGE, lost, 4), PAGE, 8 * PAGE);
	EQUAL(staged(), 3 * PAGE);
	EQUAL(usage(file, NULL).local, 0);
	SOUND(&rig);
	see(0, PAGE, 1);
	see(8 * PAGE, 2 * PAGE, 1);
	CHECK(!pc_sync_done(file->inode, pc_epoch_take(rig.volume)));
}

/* Another version, shorter than what is staged: S stays, and the object that it is sent to again is as long as it. */
TEST(check_staged_bytes_lie_over_another_version)
{
	start(8 * PAGE);
	send_bytes(4 * PAGE, 2 * PAGE, 1);
	evict_all();
	see(5 * PAGE, PAGE, 1);
	WITH_TOKEN(pc_rebase(file->inode, 2 * PAGE, false));
	EQUAL(staged(), 2 * PAGE);
	EQUAL(usage(file, NULL).dirty, 0);
	EQUAL(pc_inode_size(file->inode), 6 * PAGE);
	EQUAL(pc_inode_remote_size(file->inode), 6 * PAGE);
	EQUAL(NUMBER(file->inode, STAGED_END), 6 * PAGE);
	SOUND(&rig);
	see(4 * PAGE, 2 * PAGE, 1);
	file_truncate(file, PAGE);
	EQUAL(NUMBER(file->inode, STAGED_END), 0);
}

static bool sending;

/* The test is a caller of pc_spill: it copies what is dirty to the spool. Return: bytes that are staged now. */
static u64 spill(void)
{
	u64 pos, end, moved = 0, from = 0;
	while (pc_spill_find(file->inode, from, 4 * PAGE, &pos, &end)) {
		struct pc_part part = {.memory = malloc(end - pos), .len = end - pos};
		EQUAL(file_read(file, pos, part.memory, part.len), (i64)part.len);
		struct store *s = &file->store;
		pthread_mutex_lock(&s->lock);
		memcpy(s->bytes + pos, part.memory, part.len);
		memset(s->kept + pos, 1, part.len);
		s->size = pc_max(s->size, end);
		pthread_mutex_unlock(&s->lock);
		free(part.memory);
		moved += pc_spill(file->inode, pos, end, sending);
		from = end;
	}
	return moved;
}

TEST(check_spilled_bytes_are_staged_without_a_call)
{
	start_with(0, 4 * PAGE, 1000, limits_wide());
	put(0, 10 * PAGE + 7, 1);
	WITH_TOKEN(EQUAL(spill(), 0)); /* nothing is spilled under the token */
	EQUAL(usage(file, NULL).dirty, 11 * PAGE);
	EQUAL(spill(), 10 * PAGE + 7);
	EQUAL(file->store.writes, 0);
	EQUAL(staged(), 10 * PAGE + 7);
	EQUAL(usage(file, NULL).local, 0);
	EQUAL(pc_inode_remote_size(file->inode), 10 * PAGE + 7);
	CHECK(!pc_sync_done(file->inode, pc_epoch_take(rig.volume)));
	SOUND(&rig);
	evict_all();
	see(0, 10 * PAGE + 7, 1);
	CHECK(file->store.staged_reads > 0);
	put(PAGE, PAGE, 2); /* newer than what is staged */
	EQUAL(spill(), PAGE);
	SOUND(&rig);
	evict_all();
	see(PAGE, PAGE, 2);
	see(2 * PAGE, PAGE, 1);
}

/* While the store is asked to commit what is staged. */
static void spill_beside(struct store *s, enum store_moment when)
{
	if (when != STORE_COMMITS || sending)
		return;
	sending = true;
	put(PAGE, 2 * PAGE, 2);
	EQUAL(spill(), 2 * PAGE);
	SOUND(&rig);
}

TEST(check_a_commit_leaves_what_was_spilled_beside_it)
{
	for (int fails = 0; fails < 2; fails++) {
		start_with(8 * PAGE, 4 * PAGE, 1000, limits_wide());
		put(0, 2 * PAGE, 1);
		EQUAL(spill(), 2 * PAGE);
		file->store.meet = spill_beside;
		file->store.commit_error = fails ? -EIO : 0;
		file_sync(file);
		file->store.meet = NULL;
		CHECK(sending);
		sending = false;
		EQUAL(staged(), fails ? 3 * PAGE : 2 * PAGE);
		SOUND(&rig);
		see(PAGE, 2 * PAGE, 2);
		evict_all();
		file->store.commit_error = 0;
		file_sync(file);
		EQUAL(staged(), 0);
		SOUND(&rig);
	}
}

TEST(check_a_unit_that_the_backend_has_in_part_is_not_spilled)
{
	start_with(16 * PAGE, PAGE, 1000, LIMITS(.write_unit = 4 * PAGE));
	send_bytes(0, 4 * PAGE, 1); /* unstable: not staged below half of the limit */
	EQUAL(usage(file, NULL).unstable, 4 * PAGE);
	put(PAGE, PAGE, 2);
	put(6 * PAGE, PAGE, 3);
	EQUAL(spill(), PAGE);
	EQUAL(usage(file, NULL).dirty, PAGE);
	EQUAL(staged(), PAGE);
	SOUND(&rig);
}

/* The engine keeps a record of their failure until they are sent. */
TEST(check_bytes_whose_write_has_failed_are_not_spilled)
{
	start_with(8 * PAGE, PAGE, 1000, limits_wide());
	file->store.write_error = -EIO;
	put(0, PAGE, 1);
	CHECK(flush(file) != 0);
	put(PAGE, PAGE, 2);
	EQUAL(spill(), PAGE);
	EQUAL(usage(file, NULL).dirty, PAGE);
	file->store.write_error = 0;
	pc_retry(file->inode, 0, ALL, true);
	EQUAL(spill(), PAGE);
	SOUND(&rig);
}

TEST(check_bytes_that_joined_a_block_after_the_copy_keep_it_dirty)
{
	u64 pos, end;
	start_with(8 * PAGE, PAGE, 1000, limits_wide());
	put(100, 50, 1);
	CHECK(pc_spill_find(file->inode, 0, PAGE, &pos, &end));
	EQUAL(pos, 100);
	EQUAL(end, 150);
	byte_at(0); /* a fill */
	EQUAL(pc_spill(file->inode, pos, end, false), 0);
	CHECK(pc_spill_find(file->inode, 0, PAGE, &pos, &end));
	EQUAL(end - pos, PAGE);
	SOUND(&rig);
}
