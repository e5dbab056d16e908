/* Staged bytes: the map of them, how bytes become staged, the source of missing bytes (contract 0.1 S, 1.1 M5, 2.15, 2.23; T-18a,
 * T-61, T-70). Schedules have them beside eviction, the end of a commit, fills and the queries of an fsync. */
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

THREAD(discard_all, file_discard(file, 0, ALL, NULL, 0))

/* The discard waits for a folio that a passer-by holds, behind the place of a read and a write: neither brings back what the
 * spool had, in memory or not. */
TEST(check_given_up_bytes_do_not_come_back_beside_a_discard)
{
	for (int cached = 0; cached <= 1; cached++) {
		u64 lost[8];
		start(0);
		send_bytes(0, PAGE, 1);
		evict_all();
		if (cached)
			EQUAL(byte_at(0), 1);
		put(2 * PAGE, PAGE, 2);
		put(8 * PAGE, PAGE, 2);
		struct pc_folio *f = folio_at(file, 8 * PAGE);
		CHECK(pc_folio_trylock(f));
		pthread_t t = held_at("passer_by_met", discard_all, NULL);
		EQUAL(byte_at(0), 0);
		put(100, 10, 3);
		pc_folio_unlock(file->inode->cache, f);
		let_go("passer_by_met", t);
		RANGES(lost, pc_discarded(file->inode, lost, 4), 0, PAGE, 2 * PAGE, 3 * PAGE, 8 * PAGE, 9 * PAGE);
		EQUAL(staged(), 0);
		EQUAL(byte_at(0), 0);
		EQUAL(byte_at(100), 3);
		EQUAL(usage(file, NULL).local, PAGE);
		SOUND(&rig);
	}
}

/* The test is a caller of pc_spill: it copies what is dirty to the spool. Return: bytes that are staged now. */
static u64 spill(void)
{
	u64 runs[8], moved = 0, from = 0;
	for (u32 n; (n = pc_spill_find(file->inode, from, 4 * PAGE, false, runs, 4)); from = runs[2 * n - 1]) {
		for (u64 *run = runs; run < runs + 2 * n; run += 2) {
			struct pc_part part = {.memory = malloc(run[1] - run[0]), .len = run[1] - run[0]};
			EQUAL(file_read(file, run[0], part.memory, part.len), (i64)part.len);
			struct store *s = &file->store;
			pthread_mutex_lock(&s->lock);
			memcpy(s->bytes + run[0], part.memory, part.len);
			memset(s->kept + run[0], 1, part.len);
			s->size = pc_max(s->size, run[1]);
			pthread_mutex_unlock(&s->lock);
			free(part.memory);
		}
		moved += pc_spill(file->inode, runs, n, false);
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
	u64 runs[4];
	start_with(8 * PAGE, PAGE, 1000, limits_wide());
	put(100, 50, 1);
	put(200, 50, 1);
	EQUAL(pc_spill_find(file->inode, 0, PAGE, false, runs, 1), 0); /* no room for a part of its bytes */
	EQUAL(pc_spill_find(file->inode, 0, PAGE, false, runs, 2), 2);
	EQUAL(runs[0], 100);
	EQUAL(runs[1], 150);
	EQUAL(runs[2], 200);
	EQUAL(runs[3], 250);
	byte_at(0); /* a fill */
	EQUAL(pc_spill(file->inode, runs, 2, false), 0);
	EQUAL(pc_spill_find(file->inode, 0, PAGE, false, runs, 2), 1);
	EQUAL(runs[1] - runs[0], PAGE);
	SOUND(&rig);
}
